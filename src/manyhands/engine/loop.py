"""A readiness loop: file descriptors with callbacks, and what other threads want done in this one."""

from __future__ import annotations

import os
import selectors
from collections import deque
from collections.abc import Callable
from typing import Any


class Loop:
    """Calls `callback()` for every descriptor that has something to read."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._posted: deque[Callable[[], object]] = deque()
        self._wakeup, self._waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.watch(self._wakeup, self._call_posted)

    def watch(self, source: Any, callback: Callable[[], object]) -> None:
        """Call back whenever `source` (a descriptor or an object with `fileno`) is readable."""
        self._selector.register(source, selectors.EVENT_READ, callback)

    def unwatch(self, source: Any) -> None:
        """Stop calling back; nothing if the source is not watched."""
        try:
            self._selector.unregister(source)
        except (KeyError, ValueError):
            pass

    def post(self, callback: Callable[[], object]) -> None:
        """Have `callback()` called in the loop's thread. May be used in any thread."""
        self._posted.append(callback)
        try:
            os.write(self._waker, b".")
        except BlockingIOError:
            pass  # it is full: the loop will wake up all the same

    def run_once(self, timeout: float) -> None:
        """Wait up to `timeout` seconds for readable sources and call their callbacks."""
        for key, _ in self._selector.select(max(0.0, timeout)):
            key.data()

    def close(self) -> None:
        self._selector.close()
        os.close(self._wakeup)
        os.close(self._waker)

    def _call_posted(self) -> None:
        os.read(self._wakeup, 1 << 16)
        while self._posted:
            self._posted.popleft()()
