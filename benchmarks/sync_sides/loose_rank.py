"""A rank of a gang in which nobody waits for all others, as `training/shares.py` and `training/server.py` make it, but
without a supervisor.

Every worker and every server meet in a group of two, and so do every two servers: twice, as each may ask. Nobody is
lost here, so nobody is replaced.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from manyhands import Trainer
from manyhands.parallel.traits import find_coupling
from manyhands.sync import Task
from manyhands.sync.server import Chief, Division, Keeper, Line, StaleServer, StaleWorker
from manyhands.transport import Group
from sync_sides.course import smoothed


class Meeting(NamedTuple):
    """How two ranks come together."""

    connect: Callable[[list[int], str], Group]
    gang: str

    def pair(self, low: int, high: int, what: str) -> Group:
        return self.connect([low, high], f"{self.gang}, {what} of {low} and {high}")


def take_part(
    trainer: Trainer, gang: Group, meeting: Meeting, goal: float, limit: float, last: int
) -> list[tuple[float, float]]:
    """Work, or serve, until the chief says that it is over. The chief's seconds and losses; nothing from others."""
    plan, job = trainer.plan, trainer.job
    cut = find_coupling(job.optimizer) == "element"
    division = Division(trainer.model, [1.0] * plan.sync.servers, cut)
    if gang.rank >= plan.workers:
        return _serve(trainer, gang, meeting, division, (goal, limit, last))
    lines = {s: Line(meeting.pair(gang.rank, plan.workers + s, "work"), asks=True) for s in range(plan.sync.servers)}
    task = Task(job.micro_batches, job.reproducible, job.clip_grad_norm)
    policy = StaleWorker(task, gang.rank, division, lines.__getitem__)
    trainer.steps.follow(policy)
    gang.barrier().result()
    while (share := policy.claim()) is not None:
        trainer.step = share.step
        trainer.train_step()
    gang.barrier().result()
    trainer.leave()
    gang.close()
    return []


def _serve(
    trainer: Trainer, gang: Group, meeting: Meeting, division: Division, ends: tuple[float, float, int]
) -> list[tuple[float, float]]:
    workers, servers = trainer.plan.workers, trainer.plan.sync.servers
    woken = threading.Event()
    server = _server(trainer, gang.rank - workers, division, woken.set)
    groups = {}
    for worker in range(workers):
        groups["work", worker] = meeting.pair(worker, gang.rank, "work")
    for other in range(workers, workers + servers):
        if other != gang.rank:
            groups["copy", other] = meeting.pair(min(other, gang.rank), max(other, gang.rank), "copy")
    threads = []
    for (kind, other), group in groups.items():
        answering = Line(group, asks=False)
        if kind == "work":
            threads.append(threading.Thread(target=server.serve, args=(other, answering), daemon=True))
        else:
            server.link(other - workers, Line(group, asks=True), False)
            threads.append(threading.Thread(target=server.follow, args=(answering,), daemon=True))
    for thread in threads:
        thread.start()
    gang.barrier().result()
    rows = _watch(server, woken, *ends)
    gang.barrier().result()  # the workers have heard that it is over
    server.close()
    for group in groups.values():
        group.close(patience=1.0)
    gang.close()
    return rows


def _watch(
    server: StaleServer, woken: threading.Event, goal: float, limit: float, last: int
) -> list[tuple[float, float]]:
    """Note when steps were committed, until the goal is reached or time is up; then hand out no more."""
    began, rows = time.perf_counter(), []
    if server.chief is None:
        return rows
    ended = False
    while not server.over:
        woken.wait(0.1)
        woken.clear()
        now = time.perf_counter() - began
        rows += [(now, row.loss) for row in server.committed_since(len(rows))]
        server.said(len(rows))
        if not ended and (now > limit or len(rows) >= last or smoothed([loss for _, loss in rows]) <= goal):
            ended = True
        if ended:
            server.pause()
    return rows


def _server(trainer: Trainer, index: int, division: Division, wake: Callable[[], None]) -> StaleServer:
    job, sync = trainer.job, trainer.plan.sync
    buffers = [b for b in trainer.model.buffers() if b.numel() and b.is_floating_point()]

    def keeper(server: int, optimizer: Any, scheduler: Any) -> Keeper:
        return Keeper(division, server, optimizer, scheduler, buffers if server == 0 else [], job.micro_batches)

    duplicate = None
    if sync.servers > 1:
        optimizer = job.optimizer(trainer.model.parameters())
        scheduler = job.scheduler(optimizer) if job.scheduler else None
        duplicate = keeper((index - 1) % sync.servers, optimizer, scheduler)
    own = keeper(index, trainer.optimizer, trainer.scheduler)
    chief = Chief(trainer.plan.workers, trainer.total_steps, sync.staleness) if index == 0 else None
    return StaleServer(division, own, duplicate, chief, buffers, wake)
