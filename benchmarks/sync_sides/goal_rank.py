"""A rank that trains until a goal is reached: ours without a supervisor, or DDP; on this machine or in a lab.

It waits for orders (`manyhands.bench.Fleet`). Which rank it is, it finds in RANK, WORLD_SIZE, MASTER_ADDR and
MASTER_PORT; in a lab MANYHANDS_CLUSTER describes the links.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from ddp import DDPLoop

from manyhands import Job, Plan, Trainer
from manyhands.bench.serve import serve
from manyhands.cluster import Cluster, read_cluster
from manyhands.training.jobfile import load_job
from manyhands.transport import Group
from sync_sides.course import smoothed
from sync_sides.loose_rank import Meeting, take_part
from sync_sides.star_rank import helped, rate

JOB = Path(__file__).resolve().parents[1] / "jobs" / "example.py"
RANK, WORLD = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
_STORE_SECONDS = 120.0


class Ours:
    """Trains as a rank of a gang; the ranks that a plan does not need look on."""

    def __init__(self) -> None:
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        self._store = dist.TCPStore(address, port, WORLD, RANK == 0, timedelta(seconds=_STORE_SECONDS))
        file = os.environ.get("MANYHANDS_CLUSTER")
        self._cluster: Cluster | None = read_cluster(file) if file else None
        self._numbers = itertools.count()

    def meet(self, ranks: list[int], name: str) -> Group:
        """A group of these ranks, which are given in the order of their ranks in it."""
        cluster = self._cluster.subset([self._cluster.ranks[r] for r in ranks]) if self._cluster else None
        store = dist.PrefixStore(name, self._store)
        return Group.connect(store, ranks.index(RANK), len(ranks), name=name, cluster=cluster)

    def train(
        self, example: str, flags: str, sync: str, workers: int, slow: str, goal: float, limit: float, last: int
    ) -> list[tuple[float, float]]:
        """Seconds and loss of every step, on who knows them: rank 0, or with loose policies the chief."""
        plan, name = Plan(workers=workers, sync=sync, slow=slow, device="cpu"), f"gang {next(self._numbers)}"
        if plan.gang <= RANK:
            return []
        job = _job(example, flags)
        trainer = Trainer(job, plan, device="cpu")
        gang = self.meet(list(range(plan.gang)), name)
        if plan.sync.loose:
            return take_part(trainer, gang, Meeting(self.meet, name), goal, limit, last)
        trainer.join(gang)
        gang.barrier().result()
        began, rows = time.perf_counter(), []

        def is_late() -> int:
            return int(RANK == 0 and time.perf_counter() - began > limit)

        late = False
        while not late and len(rows) < last and smoothed([loss for _, loss in rows]) > goal:
            steps = trainer.train_round(is_late)
            rows += [(time.perf_counter() - began, step.loss) for step in steps]
            late = any(any(step.flags) for step in steps)
        gang.barrier().result()
        trainer.leave()
        return rows if RANK == 0 else []


class DDP:
    """Trains as a rank under DistributedDataParallel, over gloo."""

    def __init__(self) -> None:
        dist.init_process_group("gloo")
        dist.barrier()
        self._loop: DDPLoop | None = None
        self._shares: Iterator[list[int]] = iter(())

    def begin(self, example: str, flags: str, slow: str) -> None:
        job = _job(example, flags)
        factor = Plan(workers=WORLD, slow=slow).slowness(RANK)
        self._loop = DDPLoop(job, job.micro_batches, backend=None, slow=factor)
        self._shares = self._loop.shares(0)

    def steps(self, count: int) -> list[tuple[float, float]]:
        """Seconds from the first of these steps' beginning, and this rank's loss, for each of them."""
        assert self._loop is not None
        dist.barrier()
        began, rows = time.perf_counter(), []
        for share in itertools.islice(self._shares, count):
            loss = self._loop.step(share)
            rows.append((time.perf_counter() - began, loss))
        return rows


def _job(example: str, flags: str) -> Job:
    return load_job(JOB, ["--example", example, f"--flags={flags}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", choices=("ours", "ddp"), required=True)
    parser.add_argument("--address", required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    handlers: dict[str, Any]
    if options.side == "ours":
        ours = Ours()
        handlers = {"train": ours.train, "rate": lambda **order: rate(ours.meet, RANK, **order)}
        handlers["helped"] = lambda **order: helped(ours.meet, RANK, **order)
    else:
        ddp = DDP()
        handlers = {"begin": ddp.begin, "steps": ddp.steps}
    serve(options.address, RANK, {}, handlers)


if __name__ == "__main__":
    main()
