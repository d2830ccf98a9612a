"""The process that talks to Ray for `RayNodes`: `python -m manyhands.engine.ray.process`.

It is told what to do in a line of JSON, and says in such lines which `hosts` there are, or in an `error` why there are
none. Told `down`, it gives everything back. If it merely ends, the agents stay, and the next such process finds them.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from manyhands.errors import UserError

if TYPE_CHECKING:
    from manyhands.engine.ray.nodes import Nodes

_REACH_SECONDS = 5.0
_JOIN_SECONDS = 60.0
_LOOK_SECONDS = 0.5
_FIRST_SECONDS = 20.0
"""How long the first answer waits for nodes whose agents start."""


def main() -> int:
    """Look after a cluster's nodes."""
    spec = json.loads(sys.stdin.readline())
    say = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Ray prints there what it likes

    def tell(message: dict[str, Any]) -> None:
        say.write(json.dumps(message) + "\n")
        say.flush()

    def give_up() -> None:  # Ray itself tries for many minutes
        tell({"error": str(_no_cluster(spec["address"], f"no answer within {_JOIN_SECONDS:.0f} s"))})
        os._exit(1)

    try:
        with _joined(spec["address"], spec["namespace"], spec["slots"], give_up):
            from manyhands.engine.ray.nodes import Nodes

            return _keep(Nodes(spec["slots"], spec["token"]), tell)
    except UserError as error:
        tell({"error": str(error)})
        return 1


def _keep(nodes: Nodes, tell: Callable[[dict[str, Any]], None]) -> int:
    """Look after the nodes until told otherwise."""
    began, said = time.monotonic(), None
    orders: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=lambda: orders.put(sys.stdin.readline()), daemon=True).start()
    while True:
        complete = nodes.look()
        if said is None and not complete and time.monotonic() < began + _FIRST_SECONDS:
            time.sleep(_LOOK_SECONDS / 5)
            continue
        hosts = nodes.hosts
        if said is None and not hosts:
            nodes.remove()
            raise UserError(f"no node of that Ray cluster can be used: {nodes.why_none()}.")
        if hosts != said:
            tell({"hosts": hosts})
            said = hosts
        try:
            order = orders.get(timeout=_LOOK_SECONDS)
        except queue.Empty:
            continue
        if order == "down\n":
            nodes.remove()
        return 0


@contextlib.contextmanager
def _joined(address: str, namespace: str, slots: int | None, give_up: Callable[[], None]) -> Iterator[None]:
    """Take part in a Ray cluster while the context is open.

    Raises:
        UserError: there is none.
    """
    try:
        import ray
    except ImportError:
        raise UserError("--ray needs Ray: pip install 'manyhands[ray]'.") from None
    own: dict[str, Any] = {"num_cpus": slots, "include_dashboard": False} if address == "local" else {}
    watchdog = threading.Timer(_JOIN_SECONDS, give_up)
    watchdog.start()
    try:
        if address != "local":
            host, _, port = address.removeprefix("ray://").rpartition(":")
            if not port.isdecimal():
                raise ValueError("it has no port")
            socket.create_connection((host, int(port)), _REACH_SECONDS).close()
        ray.init(address, namespace=namespace, log_to_driver=False, logging_level=logging.ERROR, **own)
    except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        raise _no_cluster(address, str(error).strip() or type(error).__name__) from None
    finally:
        watchdog.cancel()
    try:
        yield
    finally:
        ray.shutdown()


def _no_cluster(address: str, reason: str) -> UserError:
    return UserError(
        f"cannot join the Ray cluster at {address}: {reason.splitlines()[0].rstrip('.')}. The address is HOST:PORT, as "
        "`ray start --head` prints it, on a machine of the cluster; from others it is ray://HOST:10001. Ray's token "
        "(~/.ray/auth_token) has to be the same there and here."
    )


if __name__ == "__main__":
    sys.exit(main())
