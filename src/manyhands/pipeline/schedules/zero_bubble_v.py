"""ZB-V: two half-sized stages on each rank, placed in a V, and weight gradients in the gaps.

Problem: with half-sized stages placed as in the interleaved schedule a gradient comes back late, and activations pile
up.
Idea: rank r owns stages r and 2p - 1 - r, so a micro-batch turns on the last rank and ends where it began: rank 0 has
its loss and the first gradient at once. Rank r goes ahead with the first stage until micro-batch 0 comes back, then
every slot has F I W of the one stage and F I W of the other; the last weight gradients fill the end.
Cost: with F = I = W (of half a stage), 6 m + p - 1 slots for m >= p: the p - 1 are the start that no schedule escapes.
At most 2 p live halves on each rank: what 1F1B holds on rank 0. Neighbours on the turn exchange nothing.
Source: Qi et al., arXiv 2401.10241, section 6, and Pipeline Parallelism with Controllable Memory, NeurIPS 2024 (arXiv
2405.15362): the pattern for m >= 2 p. With fewer micro-batches it leaves gaps, which a greedy filling does not
(`greedy.py`).
"""

from __future__ import annotations

from collections import Counter

from manyhands.pipeline.schedules.greedy import greedy
from manyhands.pipeline.schedules.schedule import Schedule
from manyhands.pipeline.schedules.zero_bubble_h1 import NEEDS
from manyhands.pipeline.table import Action, Kind, Table

_URGENCY = ((Kind.FORWARD, 1), (Kind.FORWARD, 0), (Kind.INPUT, 0), (Kind.INPUT, 1), (Kind.WEIGHT, 1), (Kind.WEIGHT, 0))
"""Which ready action goes first, as (kind, first or second stage of the rank): the best order by trial, p <= 8."""


def zero_bubble_v(ranks: int, micro_batches: int, virtual: int = 2) -> Table:
    placement = (*range(ranks), *reversed(range(ranks)))
    if micro_batches >= 2 * ranks:
        actions = tuple(_Rank(ranks, rank, micro_batches).fill() for rank in range(ranks))
    else:
        actions = greedy(placement, micro_batches, limit=2 * ranks, urgency=_URGENCY)
    return Table(schedule="zb-v", micro_batches=micro_batches, placement=placement, ranks=actions)


class _Rank:
    """The actions of ZB-V on one rank; every action takes the next micro-batch of its kind and stage."""

    def __init__(self, ranks: int, rank: int, micro_batches: int) -> None:
        self.ranks, self.rank, self.micro_batches = ranks, rank, micro_batches
        self.stages = (rank, 2 * ranks - 1 - rank)
        self.next: Counter[tuple[Kind, int]] = Counter()
        self.actions: list[Action] = []

    def fill(self) -> tuple[Action, ...]:
        forward, back, weight = Kind.FORWARD, Kind.INPUT, Kind.WEIGHT
        inner = self.ranks - self.rank
        self._do(2 * inner - 1, (forward, 0))  # until micro-batch 0 is back from the turn
        self._do(self.rank, (forward, 1), (forward, 0))
        self._do(inner, (forward, 1), (back, 1), (weight, 1))
        while self.next[forward, 1] < self.micro_batches:
            self._do(1, (forward, 0), (back, 0), (weight, 0), (forward, 1), (back, 1), (weight, 1))
        self._do(self.rank, (back, 1), (back, 0))
        self._do(inner, (back, 0), (weight, 0))
        self._do(self.micro_batches, (weight, 1))
        self._do(self.micro_batches, (weight, 0))
        return tuple(self.actions)

    def _do(self, times: int, *what: tuple[Kind, int]) -> None:
        """Each of `what`, so many times over, as far as there are micro-batches left."""
        for kind, half in what * times:
            if self.next[kind, half] < self.micro_batches:
                self.actions.append(Action(kind, self.stages[half], self.next[kind, half]))
                self.next[kind, half] += 1


def _bubble(ranks: int, micro_batches: int, virtual: int) -> float | None:
    return (ranks - 1) / (6 * micro_batches + ranks - 1) if micro_batches >= ranks else None


ZERO_BUBBLE_V = Schedule(
    name="zb-v",
    summary="two stages on each rank, there and back in a V, and weight gradients in the gaps: no bubble but the start",
    fill=zero_bubble_v,
    bubble=_bubble,
    virtual=2,
    splits_backward=True,
    needs=NEEDS,
)
