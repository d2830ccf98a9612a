"""What a run writes down as it goes: ledger, metrics, timeline. And the check that replays are replays.

A step is committed when the first worker reports it. After a recovery some steps are computed again; law 1
says that they come out the same, and here that is checked: the loss must have the same bits as in the ledger.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from manyhands.errors import UserError
from manyhands.gang import PartRow, StepRow
from manyhands.run import Journal, JsonLines, RunDirectory, Tracker, read_journal, read_json, write_json
from manyhands.timeline import PHASES, Event, read_chrome_trace, write_chrome_trace

_REMEMBERED = 100_000
_PHASES_SECONDS = 1.0
"""One line of phase sums per worker and so much time keeps `metrics.jsonl` small."""


@dataclass
class _PhaseSums:
    """A worker's nanoseconds per phase over the steps `first` to `last`."""

    first: int
    last: int = 0
    sums: list[int] = field(default_factory=lambda: [0] * len(PHASES))
    since: float = field(default_factory=time.monotonic)


class Record:
    """The run's journals.

    Args:
        directory: where they are.
        trackers: receive every record besides `metrics.jsonl`.
        created: when the run began, Unix time.
        reproducible: whether replayed steps must match the ledger.
        note: says something to the user.
    """

    def __init__(
        self,
        directory: RunDirectory,
        trackers: Sequence[Tracker],
        created: float,
        reproducible: bool,
        note: Callable[[str], None],
    ) -> None:
        self._directory = directory
        self._reproducible = reproducible
        self._note = note
        self._losses: dict[int, float] = {}
        self.committed = 0
        """Steps in the ledger."""
        self.loss: float | None = None
        """Loss of the last committed step."""
        self.committed_at: float | None = None
        """When the last step was committed, in monotonic seconds of this machine; None if in another session."""
        self.profile: dict[str, float] = {}
        """Share of each phase in the last seconds of a worker that has said where its time went."""
        self.evaluated = -1
        """Last step that has been evaluated."""
        self.evaluation: dict[str, float] = {}
        self.exchange = ""
        """How gradients travel and why, in words; empty for a single worker."""
        self.recoveries = 0
        """Workers that were lost, over all sessions."""
        self.deviations = 0
        """Replayed steps whose loss was not the ledger's."""
        settings = read_json(directory.run)
        self.samples: int = settings.get("samples", 0)
        """How many there were when the run began; 0 before anybody has said so."""
        self.data: str = settings.get("data", "")
        """A digest of some of them."""
        for number, line in enumerate(read_journal(directory.ledger), 1):
            self._commit(_checked(directory.ledger, number, line))
        for line in read_journal(directory.metrics):
            if line["kind"] == "membership":
                self.recoveries += line["change"] == "lost"
            elif line["kind"] == "evaluation":
                self._know_evaluation(line)
        self._ledger = Journal(directory.ledger, note)
        self._metrics = Journal(directory.metrics, note)
        self._trackers: list[Tracker] = [JsonLines(self._metrics), *trackers]
        self._events: list[Event] = []
        self._earlier = read_chrome_trace(directory.timeline)
        self._phases: dict[int, _PhaseSums] = {}
        # Times count from the creation of the run, so the sessions of a resumed run share one axis.
        self._origin = time.monotonic_ns() - int((time.time() - created) * 1e9)

    def know_data(self, samples: int, data: str) -> None:
        """Write down which data the run has, when that is first known or has changed."""
        if (samples, data) != (self.samples, self.data):
            self.samples, self.data = samples, data
            try:
                write_json(self._directory.run, read_json(self._directory.run) | {"samples": samples, "data": data})
            except OSError as error:
                self._note(f"cannot write {self._directory.run}: {error.strerror}.")

    def steps(self, rank: int, world: int, rows: Sequence[StepRow], clock: int = 0) -> list[float]:
        """Take a worker's report of steps. Returns the durations (s) of those that it committed.

        Args:
            clock: what to add to the worker's times (ns) for those of this machine.
        """
        durations = []
        for row in rows:
            self._add_spans(rank, row.step, row.spans, clock)
            if row.step <= self.committed:
                self._check_replay(row.step, row.loss)
            else:
                durations.append((row.ended - row.began) / 1e9)
                self._commit_row(row, world, clock)
            if any(row.sums):
                self._add_phases(rank, row.step, row.sums)
        return durations

    def _commit_row(self, row: StepRow, world: int, clock: int) -> None:
        place = {"epoch": row.epoch, "step": row.step, "first": row.first, "last": row.last}
        line = {**place, "workers": world, "loss": row.loss}
        self._ledger.append(line)
        self._commit(line)
        self.committed_at = (row.ended + clock) / 1e9
        when = time.time() - (time.monotonic() - self.committed_at)
        figures = {"step": row.step, "time": when, "loss": row.loss, "lr": row.lr}
        figures |= {"seconds": (row.ended - row.began) / 1e9, "workers": world}
        self._log("step", figures | ({} if row.grad_norm is None else {"grad_norm": row.grad_norm}))

    def parts(self, rank: int, rows: Sequence[PartRow], clock: int = 0) -> None:
        """Take where the time of a worker's parts of steps went; they commit no step."""
        for row in rows:
            self._add_spans(rank, row.step, row.spans, clock)
            self._add_phases(rank, row.step, row.sums)

    def _add_spans(self, rank: int, step: int, spans: Sequence[Sequence[int]], clock: int) -> None:
        for phase, micro_batch, start, end in spans:
            times = start + clock, end + clock
            self._events.append(Event(rank, "worker", PHASES[phase], *times, 0, step, micro_batch))

    def figures(self, kind: str, figures: Mapping[str, Any]) -> None:
        """Take figures that belong to no step of a worker."""
        self._log(kind, figures)

    def evaluation_done(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Take the figures of an evaluation; the first report of a step counts. Whether this was it."""
        if step <= self.evaluated:
            return False
        self.evaluated, self.evaluation = step, dict(metrics)
        self._log("evaluation", {"step": step, "time": time.time(), **metrics})
        return True

    def membership(self, change: str, workers: int, event: str) -> None:
        """The gang has changed: a generation `began`, a worker was `lost`, a `resize` came, the run `ended`."""
        self.recoveries += change == "lost"
        self._flush_phases()
        self._log(
            "membership",
            {"step": self.committed, "time": time.time(), "change": change, "workers": workers, "event": event},
        )

    def rewind(self, step: int) -> None:
        """Later steps are wrong, and will be trained again: take out what was written of them."""
        self._flush_phases()
        self._ledger.cut(lambda line: line["step"] <= step)
        self._metrics.keep(lambda line: line["kind"] not in ("step", "evaluation") or line["step"] <= step)
        self._losses = {at: loss for at, loss in self._losses.items() if at <= step}
        self.committed = min(self.committed, step)
        self.loss = self._losses.get(step)
        if self.evaluated > step:
            self.evaluated, self.evaluation = -1, {}
            for line in read_journal(self._directory.metrics):
                if line["kind"] == "evaluation":
                    self._know_evaluation(line)

    def sync(self) -> bool:
        """Make the ledger durable, as it must be before a checkpoint that relies on it; whether it is."""
        return self._ledger.sync()

    def write_timeline(self) -> None:
        """Write what the timeline holds so far."""
        try:
            write_chrome_trace(self._directory.timeline, self._events, self._origin, self._earlier)
        except OSError as error:
            self._note(f"cannot write {self._directory.timeline}: {error.strerror}. Free some space.")

    def close(self) -> None:
        self._flush_phases()
        self.write_timeline()
        self._ledger.close()
        for tracker in self._trackers:
            tracker.close()

    def _know_evaluation(self, line: Mapping[str, Any]) -> None:
        self.evaluated = line["step"]
        self.evaluation = {k: v for k, v in line.items() if k not in ("kind", "step", "time")}

    def _commit(self, line: Mapping[str, Any]) -> None:
        self.committed = line["step"]
        self.loss = line["loss"]
        self._losses[line["step"]] = line["loss"]
        if len(self._losses) > _REMEMBERED:
            del self._losses[next(iter(self._losses))]

    def _check_replay(self, step: int, loss: float) -> None:
        known = self._losses.get(step, loss)
        if loss != known and self._reproducible:
            self.deviations += 1
            if self.deviations == 1:
                self._note(
                    f"step {step} was computed again and its loss is {loss!r}, not {known!r}: something in the job is "
                    "not deterministic (a random source other than torch, numpy and random? a dataset that changes?). "
                    "The run goes on, but its result depends on its interruptions."
                )

    def _add_phases(self, rank: int, step: int, sums: Sequence[int]) -> None:
        entry = self._phases.setdefault(rank, _PhaseSums(step))
        entry.last = step
        entry.sums = [a + b for a, b in zip(entry.sums, sums, strict=True)]
        if time.monotonic() - entry.since >= _PHASES_SECONDS:
            self._flush_phases(rank)

    def _flush_phases(self, only: int | None = None) -> None:
        for rank in [only] if only is not None else list(self._phases):
            entry = self._phases.pop(rank)
            seconds = {name: ns / 1e9 for name, ns in zip(PHASES, entry.sums, strict=True) if ns}
            figures = {"step": entry.last, "rank": rank, "first": entry.first, "seconds": seconds}
            if rank == 0 and seconds:
                whole = sum(seconds.values())
                self.profile = {name: round(part / whole, 3) for name, part in seconds.items()}
            self._log("phases", figures)

    def _log(self, kind: str, figures: Mapping[str, Any]) -> None:
        for tracker in self._trackers:
            tracker.log(kind, figures)


def _checked(path: Path, number: int, line: Mapping[str, Any]) -> Mapping[str, Any]:
    """A line of the ledger, which says of the step with its number.

    Raises:
        UserError: it says something else.
    """
    figures = [line.get(name) for name in ("epoch", "first", "last", "workers")]
    whole = all(type(figure) is int and figure >= 0 for figure in figures)
    if not whole or line.get("step") != number or not isinstance(line.get("loss"), float):
        raise UserError(
            f"line {number} of {path} is damaged: {str(line)[:100]}. It has to say of step {number} with epoch, first, "
            "last, workers and loss. Put the file back as it was, or begin a new run."
        )
    return line
