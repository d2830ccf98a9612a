"""Layouts of one job side by side, as data: what each was predicted to do in a step, and what it did."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from manyhands.pipeline import Table
from manyhands.timeline import Event

NO_WORK = ("idle", "snapshot", "evaluate")
"""Phases that are no part of a step's work."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """One step. Sequences have an entry for each rank."""

    seconds: float
    idle: tuple[float, ...]
    """The share of the step in which each rank does nothing."""
    sent: tuple[int, ...]
    """Bytes that each rank sends."""
    operators: tuple[int, ...]
    """Calls of operators that compute: kernel launches on a GPU."""
    actions: tuple[int, ...]
    """What Python starts one by one: forward and backward passes of stages, sends, receives."""
    memory: tuple[int, ...]
    """Bytes at each rank's peak."""
    events: tuple[Event, ...]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A layout that was tried."""

    layout: str
    directory: str
    """The directory of the layout's run."""
    refusal: str = ""
    """Why the layout did not run."""
    measured: Figures | None = None
    predicted: Figures | None = None
    """What was predicted; None for the reference, from which all is predicted."""
    difference: float = 0.0
    """The largest difference of any final weight from one worker's."""
    same_bits: bool = False
    core_wait: float = 0.0
    """The largest share of the time in which a worker was ready to compute and others had the cores."""
    stages: tuple[str, ...] = ()
    """The first unit of each stage, where the model is cut."""
    table: Table | None = None
    """What the ranks did, where a rank is a pipeline rank."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All that the page shows."""

    job_file: str
    arguments: str
    steps: int
    """Steps that each layout was run for."""
    batch: str
    machine: str
    versions: str
    uncut: str
    """Why the model cannot be cut, if so."""
    busy_cores: float
    """Cores that one worker keeps busy while it computes."""
    cores: int
    entries: tuple[Entry, ...]
    """The layouts; the first is one worker, the reference."""

    @property
    def reference(self) -> Entry:
        return self.entries[0]


def work(events: Iterable[Event]) -> list[Event]:
    """The events in which a rank's own time is spent, by start."""
    found = [event for event in events if event.kind not in NO_WORK and event.lane != "send"]
    return sorted(found, key=lambda event: event.start)


def idle_shares(events: Iterable[Event], ranks: int) -> tuple[float, ...]:
    """How much of a step, from the first rank's first work to the last rank's last, each rank does nothing."""
    busy = work(events)
    if not busy:
        return (0.0,) * ranks
    span = max(event.end for event in busy) - busy[0].start
    return tuple(1 - covered([e for e in busy if e.rank == rank]) / max(1, span) for rank in range(ranks))


def covered(events: Sequence[Event]) -> int:
    """Nanoseconds in which at least one of the events, sorted by start, goes on."""
    total, until = 0, 0
    for event in events:
        total += max(0, event.end - max(event.start, until))
        until = max(until, event.end)
    return total
