"""Real computation on two cores: how much quicker a pipeline of two stages is than vanilla model parallelism.

With m micro-batches and even stages, theory says 2m / (m + 1) for GPipe and 1F1B, if two cores compute as fast
together as one does alone. How fast they are is measured, too: one rank's part of the model, alone and beside another.
"""

from __future__ import annotations

import statistics
import time
from functools import partial
from typing import Any

from common import console, ratios, summary, table

from manyhands.pipeline import SCHEDULES
from manyhands.plan import Layout
from manyhands.training import Trainer
from pipelines import models
from pipelines.gang import Gang, Sockets, gangs_of, in_turn
from pipelines.models import Size
from pipelines.ours import ours

RANKS = 2
TARGET = 0.9


class Alone:
    """Computes the whole model by itself."""

    def __init__(self, size: Size) -> None:
        self.trainer = Trainer(models.job(size), device="cpu")
        self.trainer.join(None)

    def steps(self, count: int) -> list[float]:
        seconds = []
        for _ in range(count):
            begin = time.perf_counter()
            self.trainer.train_step()
            seconds.append(time.perf_counter() - begin)
        return seconds


def measure(quick: bool) -> dict[str, Any]:
    size = Size().quick() if quick else Size()
    sides = {}
    for name in SCHEDULES:
        stages = Layout(pp=RANKS, schedule=name).stages
        layout = Layout(pp=RANKS, schedule=name, cuts=models.block_cuts(size, stages))
        sides[name] = ours(partial(models.job, size), layout)
    with gangs_of(sides) as gangs:
        seconds = in_turn(gangs, rounds=2 if quick else 5, steps=1)
    together = two_cores(size, 1 if quick else 3)
    bound = 2 * size.micro_batches / (size.micro_batches + 1)
    rows = [
        {"schedule": name, "seconds": summary(values), "over_vanilla": ratios(seconds["vanilla"], values)}
        for name, values in seconds.items()
    ]
    show(rows, bound, together)
    best = {row["schedule"]: row["over_vanilla"]["median"] / bound for row in rows}
    return {
        "rows": rows,
        "theory": bound,
        "two_cores": together,
        "share_of_theory": best,
        "target_met": best["1f1b"] >= TARGET,
        "size": size.__dict__,
    }


def two_cores(size: Size, rounds: int) -> float:
    """How much work two processes do together, in units of what one does alone: 2 where nothing is shared."""
    with Gang(2, partial(_alone, size=size)) as both, Gang(1, partial(_alone, size=size)) as one:
        seconds = in_turn({"one": one, "both": both}, rounds, 1)
    return statistics.median(2 * one / both for one, both in zip(seconds["one"], seconds["both"], strict=True))


def _alone(rank: int, sockets: Sockets, size: Size) -> Alone:
    return Alone(size)


def show(rows: list[dict[str, Any]], bound: float, together: float) -> None:
    printed = [
        [
            row["schedule"],
            f"{row['seconds']['median'] * 1e3:.0f} ms",
            f"{row['over_vanilla']['median']:.2f}",
            f"{row['over_vanilla']['median'] / bound:.2f}",
        ]
        for row in rows
    ]
    table("Two stages on two cores", ["", "step", "speed / vanilla", f"/ theory {bound:.2f}"], printed)
    console.print(f"two processes together do {together:.2f} times what one does alone")
