"""Filling a table by playing it through: whoever is free does the most urgent thing that is ready.

Problem: a pattern that is right for many micro-batches leaves gaps with few.
Idea: slot by slot, every rank takes the first of a fixed order of (kind, stage) that is ready and fits into its
memory: the forward of a rank's first stage must leave room for one of its last, or it could not go on. When memory is
full, a weight gradient, which alone frees any, comes first. What is played through cannot deadlock.
Cost: O(ranks * slots). The slots are of equal length and transfers are free, so the table is as good as that is true.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from manyhands.pipeline.table import Action, Kind

Urgency = Sequence[tuple[Kind, int]]
"""(kind, which of its rank's stages), the most urgent first."""


def greedy(
    placement: Sequence[int], micro_batches: int, limit: int, urgency: Urgency
) -> tuple[tuple[Action, ...], ...]:
    """What each rank does, with at most `limit` live activations on it.

    Raises:
        ValueError: the limit is too small to go on.
    """
    play = _Play(placement, micro_batches, limit, urgency)
    left = 3 * micro_batches * len(placement)
    while left:
        moves = play.slot()
        if not moves:
            raise ValueError(f"{limit} live activations are too few for {len(placement)} stages")
        left -= moves
    return tuple(map(tuple, play.ranks))


class _Play:
    def __init__(self, placement: Sequence[int], micro_batches: int, limit: int, urgency: Urgency) -> None:
        self.micro_batches, self.limit = micro_batches, limit
        self.last = len(placement) - 1
        world = max(placement) + 1
        own = [[stage for stage, owner in enumerate(placement) if owner == rank] for rank in range(world)]
        self.options = [[(kind, stages[which]) for kind, which in urgency] for stages in own]
        self.rooms = [{stage: len(stages) - 1 - which for which, stage in enumerate(stages)} for stages in own]
        self.live = [0] * world
        self.done: Counter[tuple[Kind, int]] = Counter()
        """How many micro-batches each thing has been done for on each stage; they are done in order."""
        self.ranks: list[list[Action]] = [[] for _ in range(world)]

    def slot(self) -> int:
        """Let every rank do one thing, by what was done before this slot; returns how many did."""
        moves = [(rank, choice) for rank in range(len(self.ranks)) if (choice := self._choose(rank)) is not None]
        for rank, (kind, stage) in moves:
            self.ranks[rank].append(Action(kind, stage, self.done[kind, stage]))
            self.done[kind, stage] += 1
            self.live[rank] += (kind is Kind.FORWARD) - (kind is Kind.WEIGHT)
        return len(moves)

    def _choose(self, rank: int) -> tuple[Kind, int] | None:
        ready = [option for option in self.options[rank] if self._ready(rank, *option)]
        if self.live[rank] >= self.limit - 1:
            ready.sort(key=lambda option: option[0] is not Kind.WEIGHT)
        return ready[0] if ready else None

    def _ready(self, rank: int, kind: Kind, stage: int) -> bool:
        done, index = self.done, self.done[kind, stage]
        if index == self.micro_batches:
            return False
        if kind is Kind.WEIGHT:
            return index < done[Kind.INPUT, stage]
        if kind is Kind.INPUT:
            back = stage == self.last or index < done[Kind.INPUT, stage + 1]
            return back and index < done[Kind.FORWARD, stage]
        room = self.live[rank] + self.rooms[rank][stage] < self.limit
        return room and (stage == 0 or index < done[Kind.FORWARD, stage - 1])
