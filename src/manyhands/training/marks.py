"""When the steps of a round were computed, and where their time went."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from manyhands.timeline import Recorder, Span


class Mark(NamedTuple):
    """A step's times, and where they went."""

    began: int
    ended: int
    sums: list[int]
    spans: list[Span]


class Marks:
    """The steps of a round, as they are computed."""

    def __init__(self, recorder: Recorder, keep_spans: Callable[[], bool]) -> None:
        self._recorder, self._keep_spans = recorder, keep_spans
        self.steps: list[Mark] = []
        self._began = time.monotonic_ns()
        recorder.keep_spans = keep_spans()

    def add(self) -> None:
        """A step has been computed."""
        began, self._began = self._began, time.monotonic_ns()
        self.steps.append(Mark(began, self._began, *self._recorder.take()))
        self._recorder.keep_spans = self._keep_spans()

    def end(self, count: int) -> None:
        """The round is over: what came after the last step belongs to it."""
        if len(self.steps) < count:
            self.add()
            return
        last = self.steps.pop()
        sums, spans = self._recorder.take()
        sums = [a + b for a, b in zip(last.sums, sums, strict=True)]
        self.steps.append(Mark(last.began, time.monotonic_ns(), sums, last.spans + spans))
