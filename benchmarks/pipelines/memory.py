"""Live activations, counted from outside: objects that a stage's graph holds, beside what the verifier says.

Every stage has one node of autograd that holds an object; the object counts itself out when the graph lets it go.
"""

from __future__ import annotations

import weakref
from functools import partial
from typing import Any

import torch
from common import console, table
from torch import Tensor, nn

from manyhands import Job
from manyhands.pipeline import SCHEDULES, make_table, verify
from manyhands.plan import Layout
from pipelines import sleeping
from pipelines.gang import Gang, Sockets
from pipelines.ours import Ours

RANKS, MICRO_BATCHES = (2, 4), (4, 8)


class Count:
    """Of objects that live, and the most there were."""

    now = most = 0

    @classmethod
    def add(cls) -> object:
        held = _Held()
        weakref.finalize(held, cls._remove)
        cls.now += 1
        cls.most = max(cls.most, cls.now)
        return held

    @classmethod
    def _remove(cls) -> None:
        cls.now -= 1


class _Held:
    """What the graph holds."""


class _Holding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.held = Count.add()
        ctx.save_for_backward(x, weight)
        return x * weight

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        return grads[0] * weight, (grads[0] * x).sum().view(1)


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return _Holding.apply(x, self.weight)


class Counting(Ours):
    def most(self) -> tuple[int, int]:
        """The most objects that lived at once in a step, and those that live after it."""
        self.steps(1)
        Count.most = Count.now
        self.steps(1)
        return Count.most, Count.now


def measure(quick: bool) -> dict[str, Any]:
    rows = []
    for ranks in RANKS[: 1 if quick else None]:
        for count in MICRO_BATCHES[: 1 if quick else None]:
            for name in SCHEDULES:
                layout = Layout(pp=ranks, schedule=name)
                with Gang(ranks, partial(_make, layout=layout, count=count)) as gang:
                    found = gang.ask("most")
                rows.append(
                    {
                        "schedule": name,
                        "ranks": ranks,
                        "micro_batches": count,
                        "measured": [most for most, _ in found],
                        "left": [left for _, left in found],
                        "verified": list(verify(make_table(name, ranks, count)).high_water),
                    }
                )
    equal = all(row["measured"] == row["verified"] and not any(row["left"]) for row in rows)
    show(rows)
    console.print("measured and counted are equal everywhere" if equal else "MEASURED AND COUNTED DIFFER")
    return {"rows": rows, "target_met": equal}


def show(rows: list[dict[str, Any]]) -> None:
    printed = [
        [
            f"{row['ranks']}, {row['micro_batches']}",
            row["schedule"],
            " ".join(map(str, row["verified"])),
            " ".join(map(str, row["measured"])),
        ]
        for row in rows
    ]
    table("Live activations of each rank at most", ["p, m", "", "verifier", "measured"], printed)


def _make(rank: int, sockets: Sockets, layout: Layout, count: int) -> Counting:
    def job() -> Job:
        return sleeping.job_of(lambda: nn.Sequential(*(Layer() for _ in range(layout.stages))), count)

    return Counting(rank, sockets, job, layout, range(layout.stages))
