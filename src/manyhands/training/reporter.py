"""What a worker tells its supervisor: steps in batches, all else at once."""

from __future__ import annotations

import time
import traceback
from pathlib import Path

import torch

from manyhands.engine import Channel
from manyhands.errors import UserError
from manyhands.gang import PartRow, Report, StepRow
from manyhands.gang.reports import Failed, Parts, Steps
from manyhands.training.jobfile import where
from manyhands.training.marks import Mark
from manyhands.training.trainer import Step

_REPORT_SECONDS = 0.05
"""Seconds from one batch of reported steps to the next: a report costs the supervisor about 0.2 ms of a core."""
_STEPS_PER_MESSAGE = 8
_SPANS_PER_STEP = 250
"""Spans of a step that are reported at most, of about 50 bytes: eight steps of them fit into one message."""
_TRACE_LENGTH = 8000
"""Characters of a trace at most; as JSON each is at most 6 bytes, and two such texts fit into a message."""


class Reporter:
    """Says what happens.

    Args:
        channel: to the supervisor.
        one_by_one: report every step by itself, with all of its spans, as a short run does that is looked at closely.

    Attributes:
        unreported: committed steps that nobody has heard of yet. They go along with a state that others take over.
        agreed: the last step after which all replicas were seen to hold the same; -1: none is known.
    """

    def __init__(self, channel: Channel, one_by_one: bool = False) -> None:
        self._channel, self._one_by_one = channel, one_by_one
        self.unreported: list[StepRow] = []
        self.agreed = -1
        self._reported_at = time.monotonic()

    def say(self, report: Report) -> None:
        self._channel.send(report)

    def step(self, step: Step, mark: Mark) -> None:
        """A step was committed here."""
        spans = mark.spans[: _SPANS_PER_STEP * (_STEPS_PER_MESSAGE if self._one_by_one else 1)]
        self.commit(StepRow(*step[:-1], mark.began, mark.ended, tuple(mark.sums), tuple(spans)))

    def commit(self, row: StepRow) -> None:
        """A step was committed: here, or, as servers know, by a worker. It is reported with the next batch."""
        self.unreported.append(row)
        if self._one_by_one or time.monotonic() - self._reported_at >= _REPORT_SECONDS:
            self.flush()

    def part(self, step: int, mark: Mark) -> None:
        """A part of a step was computed, which commits none by itself."""
        row = PartRow(step, mark.began, mark.ended, tuple(mark.sums), tuple(mark.spans[:_SPANS_PER_STEP]))
        self.say(Parts(rows=(row,)))

    def flush(self) -> None:
        """Report the steps that have not been. Every worker reports all, so none is lost with a worker."""
        for begin in range(0, len(self.unreported), _STEPS_PER_MESSAGE):
            self.say(Steps(rows=tuple(self.unreported[begin : begin + _STEPS_PER_MESSAGE]), agreed=self.agreed))
        self.unreported.clear()
        self._reported_at = time.monotonic()

    def failed(
        self, error: Exception, doing: str, step: int, whole: bool, job_file: Path | None, splitting: bool = False
    ) -> None:
        """The job's code, or ours, has failed while `doing` something."""
        self.say(failure(error, doing, step, whole, job_file, splitting))


def failure(
    error: Exception, doing: str, step: int, whole: bool, job_file: Path | None, splitting: bool = False
) -> Failed:
    """The report that the job's code, or ours, has failed while `doing` something."""
    text = str(error) if isinstance(error, UserError) else where(error, job_file)
    if isinstance(error, torch.OutOfMemoryError):
        text += ". Give the job more micro_batches, so that each is smaller, or use --workers fewer per device."
    trace = "".join(traceback.format_exception(error))[-_TRACE_LENGTH:]
    return Failed(error=text[:_TRACE_LENGTH], doing=doing, trace=trace, step=step, whole=whole, splitting=splitting)
