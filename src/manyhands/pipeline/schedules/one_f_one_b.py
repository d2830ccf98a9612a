"""1F1B: a backward as soon as one is there, then one forward for each backward.

Problem: GPipe holds all micro-batches. Idea: rank r lets p - 1 - r forwards go ahead, as many as it takes until the
first gradient comes back, and from then on begins a micro-batch only after it has finished one.
Cost: idle as GPipe, (p - 1) / (m + p - 1); rank r holds min(m, p - r) micro-batches, however many there are.
Source: Narayanan et al., PipeDream, SOSP 2019, with a flush (arXiv 2006.09503; "DAPPLE", arXiv 2007.01045).
"""

from __future__ import annotations

from manyhands.pipeline.schedules.schedule import Schedule, backwards, flush_bubble, forwards
from manyhands.pipeline.table import Action, Table


def one_f_one_b(ranks: int, micro_batches: int, virtual: int = 1) -> Table:
    each = range(micro_batches)
    return Table(
        schedule="1f1b",
        micro_batches=micro_batches,
        placement=tuple(range(ranks)),
        ranks=tuple(alternate(forwards(rank, each), backwards(rank, each), ranks - 1 - rank) for rank in range(ranks)),
    )


def alternate(ahead: list[Action], behind: list[Action], lead: int) -> tuple[Action, ...]:
    """`lead` forwards, then a forward and a backward in turn, then the backwards that are left."""
    lead = min(lead, len(ahead))
    turns = [action for pair in zip(ahead[lead:], behind, strict=False) for action in pair]
    return (*ahead[:lead], *turns, *behind[len(ahead) - lead :])


ONE_F_ONE_B = Schedule(
    name="1f1b",
    summary="one forward, one backward: as fast as gpipe, and memory that does not grow with the micro-batches",
    fill=one_f_one_b,
    bubble=flush_bubble,
)
