"""Which hosts a Ray cluster lends us, from the process that asks Ray."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Callable
from typing import Any

from manyhands.errors import UserError

_AGAIN_SECONDS = 10.0
"""Seconds between attempts to reach a Ray that is gone."""


class RayNodes:
    """The nodes of one Ray cluster, as they come and go.

    Args:
        address: `HOST:PORT` of a cluster that this machine is a node of, `ray://HOST:PORT`, or `local`: a Ray of its
            own, which ends with this.
        namespace: in which the actors live; the same finds them again.
        slots: of each node at most; None: as many as it has GPUs, else CPUs.
        token: what the agents have to know.
    """

    def __init__(self, address: str, namespace: str, slots: int | None, token: bytes) -> None:
        self._spec = {"address": address, "namespace": namespace, "slots": slots, "token": token.decode()}
        self._process: asyncio.subprocess.Process | None = None
        self._listener: asyncio.Task[None] | None = None

    async def start(self) -> dict[str, int]:
        """The slots of each node that is there, by its agent's `HOST:PORT`.

        Raises:
            UserError: there is no such cluster, or Ray is not installed.
        """
        self._process = await self._launch()
        said = await self._hear(self._process)
        if "hosts" not in said:
            await self._process.wait()
            raise UserError(said.get("error", f"Ray at {self._spec['address']} cannot be used; it said why before."))
        return said["hosts"]

    def follow(self, changed: Callable[[dict[str, int]], None]) -> None:
        """Call this in the event loop whenever nodes come or go."""

        async def listen() -> None:
            assert self._process is not None
            while True:
                while said := await self._hear(self._process):
                    if "hosts" in said:
                        changed(said["hosts"])
                await self._process.wait()
                await asyncio.sleep(_AGAIN_SECONDS)
                self._process = await self._launch()

        self._listener = asyncio.create_task(listen())

    async def close(self, give_back: bool) -> None:
        """
        Args:
            give_back: let Ray have the nodes' slots again; else agents stay, with what runs there.
        """
        if self._listener is not None:
            self._listener.cancel()
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(ConnectionError):
                if give_back:
                    self._process.stdin.write(b"down\n")
                self._process.stdin.close()
            await self._process.wait()

    async def _launch(self) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "manyhands.engine.ray.process",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
            start_new_session=True,
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps(self._spec).encode() + b"\n")  # not an argument: everybody can read those
        return process

    async def _hear(self, process: asyncio.subprocess.Process) -> dict[str, Any]:
        """What the process says next; empty if it has ended."""
        assert process.stdout is not None
        return json.loads(await process.stdout.readline() or "{}")
