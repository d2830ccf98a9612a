"""GPipe: all micro-batches forward, then all of them backward.

Idea: stage s works on micro-batch i while stage s + 1 works on i - 1, so all ranks are busy but for filling and
draining. Backward takes the micro-batches in order too, because gradients are added in order.
Cost: (p - 1) / (m + p - 1) idle; every stage holds all m micro-batches at once.
Source: Huang et al., GPipe, NeurIPS 2019 (arXiv 1811.06965).
"""

from __future__ import annotations

from manyhands.pipeline.schedules.schedule import Schedule, backwards, flush_bubble, forwards
from manyhands.pipeline.table import Table


def gpipe(ranks: int, micro_batches: int, virtual: int = 1) -> Table:
    each = range(micro_batches)
    return Table(
        schedule="gpipe",
        micro_batches=micro_batches,
        placement=tuple(range(ranks)),
        ranks=tuple((*forwards(rank, each), *backwards(rank, each)) for rank in range(ranks)),
    )


GPIPE = Schedule(
    name="gpipe",
    summary="all micro-batches forward, then all backward: few launches in a row, most memory",
    fill=gpipe,
    bubble=flush_bubble,
)
