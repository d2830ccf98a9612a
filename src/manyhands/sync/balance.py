"""Uneven blocks for uneven workers: who is faster computes more of every batch.

Problem: with equal blocks the slowest worker sets the pace of all, and the others wait.
Idea: every worker tells with each step what a micro-batch took it; all see the same figures, and so all decide alike,
without another protocol. The median over some steps counts, so that one hiccup moves nothing, and blocks change only
where the step is predicted to become a tenth shorter, so that they do not flap. Sums are made in the order of law 1
whatever the blocks, so the result stays the same, bit for bit.
Cost: the slowest block takes max(k_i t_i), at best (number of micro-batches) / sum(1 / t_i).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from statistics import median

from manyhands.collective import Block, assign_blocks

_WINDOW = 6
"""Steps between two decisions; the first after a change is left out, it warms up."""
_GAIN = 0.1
"""Share of a step's time that a change must save."""


class Balance:
    """Decides about the blocks of one gang.

    Args:
        blocks: by worker, to begin with.
    """

    def __init__(self, blocks: Sequence[Block]) -> None:
        self.blocks = tuple(blocks)
        self._seconds: deque[Sequence[float]] = deque(maxlen=_WINDOW - 1)
        self._since = 0

    def learn(self, seconds: Sequence[float]) -> tuple[Block, ...] | None:
        """Take what a micro-batch took each worker in one step. Returns the blocks from now on, if they change."""
        self._since += 1
        if self._since > 1:
            self._seconds.append(seconds)
        if self._since % _WINDOW:
            return None
        typical = tuple(max(1e-9, median(column)) for column in zip(*self._seconds, strict=True))
        wanted = assign_blocks(self.blocks[-1].stop, len(self.blocks), typical)
        if _slowest(wanted, typical) > (1 - _GAIN) * _slowest(self.blocks, typical):
            return None
        self.blocks, self._since = wanted, 0
        self._seconds.clear()
        return wanted


def _slowest(blocks: Sequence[Block], seconds: Sequence[float]) -> float:
    return max(block.size * second for block, second in zip(blocks, seconds, strict=True))
