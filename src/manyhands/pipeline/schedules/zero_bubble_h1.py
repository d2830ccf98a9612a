"""ZB-H1: weight gradients fill the gaps that 1F1B leaves at the end.

Problem: the stage before waits for the gradient of the inputs only, and yet 1F1B makes it wait for that of the weights
too.
Idea: take backward apart into I (inputs, as soon as possible) and W (weights, when nothing else is to do). Rank r
keeps r weight gradients back: its bubble at the end, which is r slots shorter than that of rank 0, takes them.
Cost: with F = I = W, 3 m + p - 1 slots instead of 3 (m + p - 1): a third of the bubble. No schedule with one stage on
each rank takes fewer in one step, since the last rank begins after p - 1 forwards. Every rank holds min(m, p)
micro-batches, which is what rank 0 holds in 1F1B.
Source: Qi et al., Zero Bubble Pipeline Parallelism, ICLR 2024 (arXiv 2401.10241).
"""

from __future__ import annotations

from manyhands.pipeline.schedules.one_f_one_b import alternate
from manyhands.pipeline.schedules.schedule import Schedule, forwards
from manyhands.pipeline.table import Action, Kind, Table

NEEDS = (
    "a backward that can be taken apart: every stage has parameters that learn and, but for the first, inputs that "
    "depend on parameters (no frozen front)"
)


def zero_bubble_h1(ranks: int, micro_batches: int, virtual: int = 1) -> Table:
    return Table(
        schedule="zb-h1",
        micro_batches=micro_batches,
        placement=tuple(range(ranks)),
        ranks=tuple(_rank(ranks, rank, micro_batches) for rank in range(ranks)),
    )


def _rank(ranks: int, rank: int, micro_batches: int) -> tuple[Action, ...]:
    """1F1B with I for backward, and after each I the weight gradient of `rank` micro-batches before."""
    each = range(micro_batches)
    order = alternate(
        forwards(rank, each), [Action(Kind.INPUT, rank, micro_batch) for micro_batch in each], ranks - 1 - rank
    )
    actions: list[Action] = []
    for action in order:
        actions.append(action)
        if action.kind is Kind.INPUT and action.micro_batch >= rank:
            actions.append(Action(Kind.WEIGHT, rank, action.micro_batch - rank))
    kept = range(max(0, micro_batches - rank), micro_batches)
    return (*actions, *(Action(Kind.WEIGHT, rank, micro_batch) for micro_batch in kept))


def _bubble(ranks: int, micro_batches: int, virtual: int) -> float:
    """The idle share of a step. Few micro-batches: two passes through all ranks, two slots for each further one, and a
    last weight gradient."""
    slots = max(3 * micro_batches + ranks - 1, 2 * (ranks + micro_batches - 1) + 1)
    return 1 - 3 * micro_batches / slots


ZERO_BUBBLE_H1 = Schedule(
    name="zb-h1",
    summary="1f1b whose weight gradients fill the gaps: a third of its bubble",
    fill=zero_bubble_h1,
    bubble=_bubble,
    splits_backward=True,
    needs=NEEDS,
)
