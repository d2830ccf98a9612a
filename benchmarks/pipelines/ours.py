"""This project's side: a worker of a split run, without the supervisor around it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.distributed as dist

from manyhands import Job
from manyhands.plan import Layout, Plan
from manyhands.timeline import SPLIT_BACKWARD
from manyhands.timeline.event import PHASES
from manyhands.train.split import SplitTrainer
from manyhands.transport import Group, links_over
from pipelines.gang import Sockets

COMPUTING = ("forward", "backward", *SPLIT_BACKWARD)


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
        self.trainer = SplitTrainer(job(), Plan(layout=layout), device="cpu")
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

    def cuts(self) -> tuple[int, ...]:
        return self.trainer.cuts

    def latency(self, rounds: int) -> float:
        """Seconds from sending one number and the generators' state to its having arrived, between ranks 0 and 1."""
        group, rank = self.trainer.place.process_group("pp"), self.trainer.rank
        tensors = [torch.zeros(1), torch.zeros(5056, dtype=torch.uint8)]
        begin = time.perf_counter()
        for _ in range(rounds if rank < 2 else 0):
            for sends in (rank == 0, rank != 0):
                operation = dist.isend if sends else dist.irecv
                peer = {"group_dst" if sends else "group_src": 1 - rank}
                for work in [operation(t, group=group, tag=slot, **peer) for slot, t in enumerate(tensors)]:
                    work.wait()  # type: ignore[union-attr]
        return (time.perf_counter() - begin) / (2 * rounds)


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
