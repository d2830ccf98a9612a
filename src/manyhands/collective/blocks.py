"""Who computes which micro-batches.

Every worker gets one contiguous block, none of them empty. The slowest block sets the pace, so blocks differ
by at most one micro-batch; among such cuts the one with the fewest subtrees to hand over is taken, because
each subtree is a whole gradient on the wire. A block that is aligned to its own size is a single subtree.
"""

from __future__ import annotations

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
def assign_blocks(micro_batches: int, workers: int) -> tuple[Block, ...]:
    """Cut `micro_batches` into `workers` contiguous blocks, in rank order.

    The largest block is `ceil(micro_batches / workers)`; then the total number of subtrees is the least
    possible (dynamic programming over where each block starts and how many long blocks are used).

    Raises:
        ValueError: workers < 1 or workers > micro_batches.
    """
    if not 1 <= workers <= micro_batches:
        raise ValueError(f"{workers} workers cannot share {micro_batches} micro-batches: give 1 to {micro_batches}")
    short, long_blocks = divmod(micro_batches, workers)

    # best[longs]: fewest pieces for the ranks so far when `longs` of them have a long block, and those blocks.
    best: dict[int, tuple[int, tuple[Block, ...]]] = {0: (0, ())}
    for rank in range(workers):
        longer: dict[int, tuple[int, tuple[Block, ...]]] = {}
        for longs, (count, blocks) in best.items():
            start = rank * short + longs
            for extra in (0, 1):
                # Enough ranks must be left for the long blocks that are left.
                if not long_blocks - (workers - rank - 1) <= longs + extra <= long_blocks:
                    continue
                block = Block(start, start + short + extra)
                option = (count + len(block.pieces(micro_batches)), (*blocks, block))
                longer[longs + extra] = min(option, longer.get(longs + extra, option))
        best = longer
    return best[long_blocks][1]
