"""A readiness loop: file descriptors with callbacks, and the time of the next deadline."""

from __future__ import annotations

import selectors
from collections.abc import Callable
from typing import Any


class Loop:
    """Calls `callback()` for every descriptor that has something to read."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def watch(self, source: Any, callback: Callable[[], object]) -> None:
        """Call back whenever `source` (a descriptor or an object with `fileno`) is readable."""
        self._selector.register(source, selectors.EVENT_READ, callback)

    def unwatch(self, source: Any) -> None:
        """Stop calling back; nothing if the source is not watched."""
        try:
            self._selector.unregister(source)
        except (KeyError, ValueError):
            pass

    def run_once(self, timeout: float) -> None:
        """Wait up to `timeout` seconds for readable sources and call their callbacks."""
        for key, _ in self._selector.select(max(0.0, timeout)):
            key.data()

    def close(self) -> None:
        self._selector.close()
