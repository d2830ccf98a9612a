"""Who computes which micro-batches.

Every worker gets one contiguous block, none of them empty. The slowest block sets the pace: the blocks taken are those
whose slowest is soonest done, all workers being equally fast unless measured otherwise. Among such cuts the one with
the fewest subtrees to hand over is taken, because each subtree is a whole gradient on the wire. A block that is
aligned to its own size is a single subtree.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from manyhands.collective.tree import Node, pieces


class Block(NamedTuple):
    """The micro-batches `[start, stop)` of one worker."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start

    def pieces(self, total: int) -> tuple[Node, ...]:
        return pieces(self.start, self.stop, total)


@lru_cache(maxsize=64)
def assign_blocks(micro_batches: int, workers: int, seconds: tuple[float, ...] | None = None) -> tuple[Block, ...]:
    """Cut `micro_batches` into `workers` contiguous blocks, in rank order.

    The least possible time of the slowest block, then the least number of subtrees in all (dynamic programming over
    where each block starts), then blocks as equal as can be.

    Args:
        seconds: what a micro-batch takes each worker. Default: all the same.

    Raises:
        ValueError: workers < 1 or workers > micro_batches.
    """
    if not 1 <= workers <= micro_batches:
        raise ValueError(f"{workers} workers cannot share {micro_batches} micro-batches: give 1 to {micro_batches}")
    most = _most(micro_batches, workers, seconds or (1.0,) * workers)
    least = micro_batches // workers if seconds is None else 1

    # best[stop]: (subtrees, sum of squared sizes, blocks) for the ranks so far, ending at `stop`.
    best: dict[int, tuple[int, int, tuple[Block, ...]]] = {0: (0, 0, ())}
    for rank, limit in enumerate(most):
        room = sum(most[rank + 1 :])
        longer: dict[int, tuple[int, int, tuple[Block, ...]]] = {}
        for start, (count, squares, blocks) in best.items():
            for stop in range(start + least, min(start + limit, micro_batches) + 1):
                if micro_batches - room <= stop <= micro_batches - least * (workers - rank - 1):
                    block = Block(start, stop)
                    squared = squares + block.size**2
                    option = (count + len(block.pieces(micro_batches)), squared, (*blocks, block))
                    longer[stop] = min(option, longer.get(stop, option))
        best = longer
    return best[micro_batches][2]


def _most(micro_batches: int, workers: int, seconds: Sequence[float]) -> list[int]:
    """How many micro-batches each worker can compute in the least time in which all are computed, one each."""
    times = sorted({count * second for second in set(seconds) for count in range(1, micro_batches + 1)})
    low, high = 0, len(times) - 1
    while low < high:
        middle = (low + high) // 2
        enough = times[middle] >= max(seconds) and sum(_within(times[middle], seconds)) >= micro_batches
        low, high = (low, middle) if enough else (middle + 1, high)
    return [min(count, micro_batches - workers + 1) for count in _within(times[low], seconds)]


def _within(time: float, seconds: Sequence[float]) -> list[int]:
    return [int(time / second * (1 + 1e-12)) for second in seconds]
