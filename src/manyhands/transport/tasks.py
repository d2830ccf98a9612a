"""Calls that run one after another, in the order they were made, on a thread of their own."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple


class _Task(NamedTuple):
    run: Callable[[], Any]
    future: Future[Any]


class ClosedError(Exception):
    """The queue was closed."""


class Tasks:
    """A queue and its thread, which starts with the first call."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[_Task] = deque()
        self._thread: threading.Thread | None = None
        self._closed = False

    def put(self, run: Callable[[], Any]) -> Future[Any]:
        """Have something called after all that was put before.

        Raises:
            ClosedError: nothing can be put any more.
        """
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()  # what others take part in cannot be cancelled
        with self._changed:
            if self._closed:
                raise ClosedError
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, daemon=True, name="manyhands-group")
                self._thread.start()
            self._waiting.append(_Task(run, future))
            self._changed.notify()
        return future

    def close(self, seconds: float) -> bool:
        """Let what was put come to its end, for so long; whether it has."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None and threading.current_thread() is not self._thread:
            self._thread.join(seconds)
        return self._thread is None or not self._thread.is_alive()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                task = self._waiting.popleft()
            try:
                result = task.run()
            except BaseException as error:
                task.future.set_exception(error)
            else:
                task.future.set_result(result)
            del task
