"""This project's side: a worker of a split run, without the supervisor around it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from manyhands import Job
from manyhands.plan import Layout, Plan
from manyhands.timeline.event import PHASES
from manyhands.training import Trainer
from manyhands.transport import Group, links_over
from pipelines.gang import Sockets

COMPUTING = ("forward", "backward", "input_gradient", "weight_gradient")


class Table(NamedTuple):
    """What running the table of a step took one rank; times of the clock that all ranks share."""

    begin: int
    end: int
    """ns."""
    busy: int
    """ns in which it computed."""


class Ours:
    """A worker of `job` under `layout`."""

    def __init__(
        self, rank: int, sockets: Sockets, job: Callable[[], Job], layout: Layout, cuts: Sequence[int] | None
    ) -> None:
        self.trainer = Trainer(job(), Plan(layout=layout), device="cpu")
        self.trainer.join(Group(rank, links_over(rank, sockets), name="the gang"), cuts=cuts)

    def steps(self, count: int) -> list[float]:
        """Seconds of each whole step: the table, the exchange and the update."""
        seconds = []
        for _ in range(count):
            begin = time.perf_counter()
            self.trainer.train_step()
            seconds.append(time.perf_counter() - begin)
            self.trainer.recorder.take()
        return seconds

    def tables(self, count: int) -> list[Table]:
        """As the run's timeline has it."""
        measured = []
        for _ in range(count):
            self.trainer.recorder.take()
            begin = time.monotonic_ns()
            self.trainer.train_step()
            spans = [(PHASES[phase], start, end) for phase, _, start, end in self.trainer.recorder.take()[1]]
            end = next(start for phase, start, _ in spans if phase == "exchange")
            busy = sum(end - start for phase, start, end in spans if phase in COMPUTING)
            measured.append(Table(begin, end, busy))
        return measured

    def oversleep(self, seconds: float) -> float:
        """Seconds by which a sleep of this length is longer."""
        found = []
        for _ in range(100):
            begin = time.perf_counter()
            time.sleep(seconds)
            found.append(time.perf_counter() - begin - seconds)
        return statistics.median(found)

    def cuts(self) -> tuple[int, ...]:
        return self.trainer.steps.cuts

    def spans(self) -> list[tuple[str, int, int, int]]:
        """Of one step: phase, micro-batch, begin and end in ns."""
        self.trainer.recorder.take()
        self.trainer.train_step()
        return [(PHASES[phase], *rest) for phase, *rest in self.trainer.recorder.take()[1]]


def ours(
    job: Callable[[], Job], layout: Layout, cuts: Sequence[int] | None = None
) -> tuple[int, Callable[[int, Sockets], Ours]]:
    """A side for `gangs_of`.

    Args:
        cuts: the first unit of every stage; None: balanced.
    """
    return layout.workers, partial(_make, job=job, layout=layout, cuts=cuts)


def _make(rank: int, sockets: Sockets, job: Callable[[], Job], layout: Layout, cuts: Sequence[int] | None) -> Ours:
    return Ours(rank, sockets, job, layout, cuts)
