"""Vanilla model parallelism: one micro-batch at a time through all stages and back.

Problem: the model does not fit on one device. Idea: put consecutive layers on consecutive devices, and change nothing
else.
Cost: one rank works at a time, so (p - 1) / p of all time is idle, however many micro-batches there are; one live
activation per stage. It is what every other schedule is compared with.
"""

from __future__ import annotations

from manyhands.pipeline.schedules.schedule import Schedule, backwards, forwards
from manyhands.pipeline.table import Table


def vanilla(ranks: int, micro_batches: int, virtual: int = 1) -> Table:
    each = range(micro_batches)
    return Table(
        schedule="vanilla",
        micro_batches=micro_batches,
        placement=tuple(range(ranks)),
        ranks=tuple(
            tuple(action for i in each for action in (*forwards(rank, [i]), *backwards(rank, [i])))
            for rank in range(ranks)
        ),
    )


VANILLA = Schedule(
    name="vanilla",
    summary="one micro-batch at a time through all stages and back: layer-by-layer model parallelism",
    fill=vanilla,
    bubble=lambda ranks, micro_batches, virtual: (ranks - 1) / ranks,
)
