"""Knows which hosts are there: a connection to each one's agent, over which something comes all the time."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Collection

from manyhands.engine.hosts.line import BEAT_SECONDS, Line, LineLostError, dial
from manyhands.plan import parse_address

_SILENT_SECONDS = 10 * BEAT_SECONDS
"""A host that says nothing for so many seconds is gone."""
_AGAIN_SECONDS = 1.0
"""Seconds between attempts to reach a host that is not there."""
_REACH_SECONDS = 4.0


class Watchman:
    """Watches hosts until it is closed.

    Args:
        token: the secret that agents know.
        changed: called in the event loop with a host, and whether it is there.
    """

    def __init__(self, token: bytes, changed: Callable[[str, bool], None]) -> None:
        self._token, self._changed = token, changed
        self._loop = asyncio.get_running_loop()
        self._ends: dict[str, threading.Event] = {}

    def watch_only(self, hosts: Collection[str]) -> None:
        """Watch these hosts, each `NAME` or `NAME:PORT`, and no others."""
        for host in set(self._ends) - set(hosts):
            self._ends.pop(host).set()
        for host in set(hosts) - set(self._ends):
            end = self._ends[host] = threading.Event()
            threading.Thread(target=self._watch, args=(host, end), daemon=True, name="manyhands-watch").start()

    def close(self) -> None:
        self.watch_only(())

    def _watch(self, host: str, end: threading.Event) -> None:
        while not end.is_set():
            try:
                with contextlib.closing(self._reach(host)) as line:
                    self._say(host, True)
                    while not end.is_set():
                        line.receive(_SILENT_SECONDS)
            except LineLostError:
                self._say(host, False)
            end.wait(_AGAIN_SECONDS)

    def _reach(self, host: str) -> Line:
        return Line(dial(parse_address(host), self._token, _REACH_SECONDS, watch=True), _SILENT_SECONDS)

    def _say(self, host: str, there: bool) -> None:
        with contextlib.suppress(RuntimeError):  # the controller has ended meanwhile
            self._loop.call_soon_threadsafe(self._changed, host, there)
