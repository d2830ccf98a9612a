"""What runs on a node of a Ray cluster: an agent, in an actor."""

from __future__ import annotations

import threading

import ray

from manyhands.engine.hosts import Agent


class Lender:
    """What runs on a node: an agent.

    Args:
        token: what it has to know.
    """

    def __init__(self, token: str) -> None:
        self._address = ray.util.get_node_ip_address()
        self._agent = Agent(self._address, 0, token.encode(), lambda text: print(text, flush=True), spare=True)  # noqa: T201
        self._serving = threading.Thread(target=self._agent.serve, daemon=True)
        self._serving.start()

    def name(self) -> str:
        """The address at which the agent listens: HOST:PORT."""
        return f"{self._address}:{self._agent.port}"

    def serve(self) -> None:
        """Return when the agent no longer serves."""
        self._serving.join()
