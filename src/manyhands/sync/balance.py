"""Uneven blocks for uneven workers: who is faster computes more of every batch.

Problem: with equal blocks the slowest worker sets the pace of all, and the others wait.
Idea: every worker tells with each step what a micro-batch took it, and what the step before took; all see the same
figures, and so all decide alike, without another protocol. The median over some steps counts, so that one hiccup
moves nothing, and blocks change only where computing is predicted to take less by a tenth of a step, twice in a row,
so that they do not flap. Blocks that are no whole subtrees send more pieces of every sum, so what is not computing
takes longer by as much. A change is a trial besides: if steps take longer than before, the change is taken back until
speeds have become others, and every regret doubles the time until the next trial. Sums are made in the order of law 1
whatever the blocks, so the result stays the same, bit for bit.
Cost: the slowest block takes max(k_i t_i), at best (number of micro-batches) / sum(1 / t_i).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple

from manyhands.collective import Block, assign_blocks

_WINDOW = 6
"""Steps between two decisions; of those after a change the first two do not count: one warms up, the next tells so."""
_GAIN = 0.1
"""Share of a step's time that a change must save."""
_OTHERS = 1.25
"""Speeds are others when somebody's share of the gang's has changed by this factor."""


class _Trial(NamedTuple):
    blocks: tuple[Block, ...]
    """The blocks before the change that is tried."""
    step: float
    """Seconds that a step took with those blocks."""


class Balance:
    """Decides about the blocks of one gang.

    Args:
        blocks: by worker, to begin with.
        pieces: how many partial sums the workers send for such blocks.
    """

    def __init__(self, blocks: Sequence[Block], pieces: Callable[[Sequence[Block]], int] = len) -> None:
        self.blocks = tuple(blocks)
        self._pieces = pieces
        self._seconds: deque[Sequence[float]] = deque(maxlen=_WINDOW - 2)
        self._steps: deque[float] = deque(maxlen=_WINDOW - 2)
        self._since = 0
        self._before: tuple[Sequence[float], ...] = ()
        """Speeds in the window before this one."""
        self._trial: _Trial | None = None
        self._regretted: Sequence[float] | None = None
        """Speeds at which a change was taken back."""
        self._regrets = self._rest = 0
        """How many changes were taken back, and for how many windows nothing is tried because of that."""

    def learn(self, seconds: Sequence[float], step: float) -> tuple[Block, ...] | None:
        """Take what a micro-batch took each worker in one step, and what the step before took them all. Returns the
        blocks from now on, if they change."""
        self._since += 1
        if self._since > 2:
            self._seconds.append(seconds)
            self._steps.append(step)
        if self._since % _WINDOW:
            return None
        typical = tuple(max(1e-9, median(column)) for column in zip(*self._seconds, strict=True))
        step = median(self._steps)
        trial, self._trial = self._trial, None
        if trial is not None and step > trial.step:
            self._regretted, self._regrets = typical, self._regrets + 1
            self._rest = 1 << self._regrets
            return self._change(trial.blocks)
        self._rest = max(0, self._rest - 1)
        if self._regretted is not None and (self._rest or not _are_others(typical, self._regretted)):
            return None
        wanted = assign_blocks(self.blocks[-1].stop, len(self.blocks), typical)
        computing = _slowest(self.blocks, typical)
        more = (self._pieces(wanted) / self._pieces(self.blocks) - 1) * max(0.0, step - computing)
        gains = [_slowest(self.blocks, s) - _slowest(wanted, s) - more for s in (typical, *self._before)]
        self._before = (typical,)
        if len(gains) < 2 or min(gains) <= _GAIN * step:
            return None
        self._trial, self._regretted = _Trial(self.blocks, step), None
        return self._change(wanted)

    def _change(self, blocks: tuple[Block, ...]) -> tuple[Block, ...]:
        self.blocks, self._since, self._before = blocks, 0, ()
        self._seconds.clear()
        self._steps.clear()
        return blocks


def _are_others(seconds: Sequence[float], before: Sequence[float]) -> bool:
    ratios = [now / then * sum(before) / sum(seconds) for now, then in zip(seconds, before, strict=True)]
    return max(ratios) > _OTHERS or min(ratios) < 1 / _OTHERS


def _slowest(blocks: Sequence[Block], seconds: Sequence[float]) -> float:
    return max(block.size * second for block, second in zip(blocks, seconds, strict=True))
