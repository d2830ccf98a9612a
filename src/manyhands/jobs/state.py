"""What a policy sees of a cluster and its jobs, and what it may decide.

Pure data: the controller and the simulator both make it, and both carry decisions out.

A slot is a place for one worker: a device, or a core. Jobs are columns of arrays, so that a policy looks at tens of
thousands of them in well under a millisecond.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
FREE = -1
"""In place of a job's row: nobody has the slot."""


@dataclass(frozen=True, kw_only=True)
class Jobs:
    """Jobs that were submitted and have not ended, in the order of submission; one row each."""

    number: Ints
    """What decisions call the job."""
    user: Ints
    """Whose job it is; indexes `State.shares`."""
    submitted: Floats
    """When the job was submitted, in seconds of the clock of `State.now`."""
    least: Ints
    """Workers without which the job does not run: it is a gang."""
    most: Ints
    """Workers that the job can use; more than `least` for an elastic job."""
    priority: Ints
    """The job's priority; higher goes first, where a policy looks at it."""
    service: Floats
    """Slot-seconds that the job has had."""
    workers: Ints
    """Workers that the job has; 0 for one that waits."""
    since: Floats
    """Seconds for which the job has been as it is: with these slots, or without any."""
    held: NDArray[np.bool_]
    """Whether the job was paused by its user: it does not want to run."""
    kind: Ints
    """The job's kind: jobs of a kind are alike in what they do to a slot; indexes `State.pairs`."""
    spread: Floats
    """The job's speed on several hosts over that on one, as predicted by the links or measured."""

    def __len__(self) -> int:
        return len(self.number)

    @property
    def runs(self) -> NDArray[np.bool_]:
        """Whether each job has slots."""
        return self.workers > 0


@dataclass(frozen=True, kw_only=True)
class State:
    """A cluster and its jobs at a moment.

    Of the decisions about it, all those who have slots and pause, resize, move or go to share others' let go of their
    own before anybody takes any. Who shared slots with one that lets go has them for itself.

    Attributes:
        now: seconds, of any clock.
        slots: the host of each slot.
        first, second: the row of the job that has each slot, and of one that shares it; `FREE` if there is none.
        shares: users' weights; 1 for those who are not named.
        pairs: by kinds of two jobs on one slot, the speed of each over that of having it alone, as measured or
            guessed; what is not there is not to be tried.
    """

    now: float
    jobs: Jobs
    slots: Ints
    first: Ints
    second: Ints
    shares: Mapping[int, float] = field(default_factory=dict)
    pairs: Mapping[tuple[int, int], tuple[float, float]] = field(default_factory=dict)

    def slots_of(self, row: int) -> Ints:
        """The slots that a job has, alone or as the second."""
        return np.flatnonzero((self.first == row) | (self.second == row))


@dataclass(frozen=True)
class Pause:
    """Have a job keep its state and give up its slots."""

    job: int


@dataclass(frozen=True)
class _Placed:
    job: int
    slots: tuple[int, ...]


class Start(_Placed):
    """Have a job begin, or go on, on these slots, which are free."""


class Resize(_Placed):
    """Have a job go on with these slots, which are more than it has, or fewer."""


class Move(_Placed):
    """Have a job go on with as many slots elsewhere."""


class Pack(_Placed):
    """Have a job begin, or go on, on slots that another has, and share them with that one."""


Decision = Start | Resize | Move | Pack | Pause


def carried_out(state: State, decisions: Sequence[Decision]) -> State:
    """The state right after these decisions, none of which is a `Pack`."""
    if not decisions:
        return state
    rows = np.flatnonzero(np.isin(state.jobs.number, [decision.job for decision in decisions]))
    row_of = dict(zip(state.jobs.number[rows].tolist(), rows.tolist(), strict=True))
    workers, first = state.jobs.workers.copy(), state.first.copy()
    for decision in decisions:
        row = row_of[decision.job]
        first[first == row] = FREE
        workers[row] = 0
    for decision in decisions:
        if not isinstance(decision, Pause):
            first[list(decision.slots)] = row_of[decision.job]
            workers[row_of[decision.job]] = len(decision.slots)
    return replace(state, jobs=replace(state.jobs, workers=workers), first=first)
