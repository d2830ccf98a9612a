"""torch's own schedules, called directly, beside ours: the same model, the same cuts, the same micro-batches.

What is timed is a whole step on both sides: the batch is fetched, the schedule runs, AdamW updates. Ours does what
torch's does not: it lets the random state travel, and adds gradients up micro-batch by micro-batch in a fixed order.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from common import console, ratios, summary, table
from torch import Tensor, nn
from torch.distributed.pipelining import (
    PipelineStage,
    Schedule1F1B,
    ScheduleGPipe,
    ScheduleInterleaved1F1B,
    ScheduleZBVZeroBubble,
)
from torch.utils.data import default_collate

import manyhands.torch  # noqa: F401 the backend
from manyhands.pipeline import make_table
from manyhands.plan import Layout
from pipelines import models
from pipelines.gang import Sockets, gangs_of, in_turn
from pipelines.models import Size
from pipelines.ours import ours

RANKS = 2
SCHEDULES: dict[str, type] = {
    "gpipe": ScheduleGPipe,
    "1f1b": Schedule1F1B,
    "interleaved": ScheduleInterleaved1F1B,
    "zb-v": ScheduleZBVZeroBubble,
}
OURS, GLOO, BACKEND = "manyhands", "torch, gloo", "torch, manyhands"
TARGET = 1.03


class Part(nn.Module):
    """One stage of the GPT, with torch's means: a module of its own that calls what is its share."""

    def __init__(self, whole: nn.Module, size: Size, stage: int, stages: int) -> None:
        super().__init__()
        first, last = (size.layers * at // stages for at in (stage, stage + 1))
        self.blocks = whole.blocks[first:last]
        self.token, self.position = (whole.token, whole.position) if stage == 0 else (None, None)
        self.norm, self.head = (whole.norm, whole.head) if stage == stages - 1 else (None, None)

    def forward(self, x: Tensor) -> Tensor:
        if self.token is not None:
            x = self.token(x) + self.position.weight[: x.shape[1]]
        for block in self.blocks:
            x = block(x)
        return x if self.head is None else self.head(self.norm(x))


class Theirs:
    """A worker of torch's own.

    Args:
        backend: of the process group.
    """

    def __init__(self, rank: int, store: str, size: Size, schedule: str, backend: str) -> None:
        dist.init_process_group(backend, store=dist.FileStore(store, RANKS), rank=rank, world_size=RANKS)
        torch.manual_seed(0)
        whole, filled = models.gpt(size), make_table(schedule, RANKS, size.micro_batches)
        mine = filled.stages_of(rank)
        parts = [Part(whole, size, stage, filled.stages) for stage in mine]
        device = torch.device("cpu")
        stages = [PipelineStage(part, at, filled.stages, device) for part, at in zip(parts, mine, strict=True)]
        given = stages if len(mine) > 1 else stages[0]
        self.schedule = SCHEDULES[schedule](given, size.micro_batches, loss_fn=models.loss)
        self.first, self.last = 0 in mine, filled.stages - 1 in mine
        self.optimizer = models.optimizer([param for part in parts for param in part.parameters()])
        self.data, self.size, self.step = models.Tokens(size), size, 0

    def steps(self, count: int) -> list[float]:
        seconds = []
        for _ in range(count):
            begin = time.perf_counter()
            self._step()
            dist.barrier()  # ours ends with an exchange of losses; both are timed until all ranks are done
            seconds.append(time.perf_counter() - begin)
        return seconds

    def _step(self) -> None:
        indices = range(self.step * self.size.batch_size, (self.step + 1) * self.size.batch_size)
        inputs, targets = default_collate([self.data[index] for index in indices])
        arguments = (inputs,) if self.first else ()
        losses: list[Tensor] = []
        if self.last:
            self.schedule.step(*arguments, target=targets, losses=losses)
        else:
            self.schedule.step(*arguments)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1


def measure(quick: bool) -> dict[str, Any]:
    size = Size().quick() if quick else Size()
    rows = []
    for schedule in SCHEDULES:
        with tempfile.TemporaryDirectory(prefix="peers-") as folder:
            sides = {OURS: _ours(schedule, size), **_theirs(schedule, size, folder)}
            with gangs_of(sides) as gangs:
                seconds = in_turn(gangs, rounds=2 if quick else 5, steps=2 if quick else 5, warm_up=1)
        rows.append(
            {
                "schedule": schedule,
                "seconds": {side: summary(values) for side, values in seconds.items()},
                "ratio": {side: ratios(seconds[OURS], values) for side, values in seconds.items() if side != OURS},
            }
        )
    worst = max(row["ratio"][GLOO]["median"] for row in rows)
    show(rows)
    return {"rows": rows, "worst_ratio": worst, "target_met": worst <= TARGET, "size": size.__dict__}


def _ours(schedule: str, size: Size) -> tuple[int, Callable[[int, Sockets], Any]]:
    stages = Layout(pp=RANKS, schedule=schedule).stages
    layout = Layout(pp=RANKS, schedule=schedule, cuts=models.block_cuts(size, stages))
    return ours(lambda: models.job(size), layout)


def _theirs(schedule: str, size: Size, folder: str) -> dict[str, tuple[int, Callable[[int, Sockets], Any]]]:
    sides: dict[str, tuple[int, Callable[[int, Sockets], Any]]] = {}
    for side, backend in {GLOO: "gloo", BACKEND: "manyhands"}.items():
        store = str(Path(folder) / backend)
        sides[side] = RANKS, partial(_make, store=store, size=size, schedule=schedule, backend=backend)
    return sides


def _make(rank: int, sockets: Sockets, **given: Any) -> Theirs:
    return Theirs(rank, **given)


def show(rows: list[dict[str, Any]]) -> None:
    sides = list(rows[0]["seconds"])
    printed = [
        [
            row["schedule"],
            *(f"{row['seconds'][side]['median'] * 1e3:.0f} ms" for side in sides),
            *(f"{row['ratio'][side]['median']:.3f}" for side in sides if side != OURS),
        ]
        for row in rows
    ]
    columns = ["2 ranks", *sides, *(f"/ {side}" for side in sides if side != OURS)]
    table("A whole step: median, and ours over theirs", columns, printed)
    console.print(f"worst ratio to torch's schedules over gloo: {max(r['ratio'][GLOO]['median'] for r in rows):.3f}")
