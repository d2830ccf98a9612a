"""All-reduce, every step: all workers add up their gradients, and each applies the sum.

The classic decentralised way: no process is special, every worker holds the whole state. Costs 2 (n-1)/n of the
gradient's bytes per worker and step; the slowest worker sets the pace, which uneven blocks (balance.py) mend.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from manyhands.collective import Block, Fold, Node, fold, leaves
from manyhands.sync.choice import choose_forest
from manyhands.sync.exchange import Exchange
from manyhands.sync.layout import lay_out
from manyhands.sync.policy import Policy, Task
from manyhands.sync.waiting import OnWait
from manyhands.transport import Group


class AllReduce(Policy):
    """A worker's side of all-reduce.

    Args:
        collective: the name of the algorithm, or auto.
    """

    def __init__(
        self,
        task: Task,
        gang: Group | None,
        on_wait: OnWait = lambda waits: None,
        collective: str = "auto",
    ) -> None:
        super().__init__(task, gang, on_wait)
        if gang is not None:
            self._forest, self.described = choose_forest(collective, self.world, gang.cluster)

    @property
    def fold(self) -> Fold:
        return sums(self.task, self.blocks, self.rank)[0]

    def open(self, params: Sequence[Tensor], buffers: Sequence[Tensor]) -> Exchange | None:
        if self.gang is None:
            return None
        _, nodes, total = sums(self.task, self.blocks, self.rank)
        layout = lay_out([*params, *buffers], boundary=len(params))
        return Exchange(layout, nodes, total, self.gang, params[0].device, self._forest, self._on_wait)


def sums(task: Task, blocks: Sequence[Block], rank: int) -> tuple[Fold, list[tuple[Node, ...]], int]:
    """A rank's local additions, every rank's subtrees, and the number of leaves of the tree across workers.

    A rank with an empty block has nothing to add, and contributes nothing.
    """
    block, total = blocks[rank], task.micro_batches
    if task.reproducible:
        return fold(leaves(block.start, block.stop), total), [b.pieces(total) for b in blocks], total
    # Each worker adds up its block from left to right and hands over one sum, whatever its share.
    workers = [r for r, b in enumerate(blocks) if b.size]
    plan = Fold((0,) + (1,) * (block.size - 1), (Node(0, rank),)) if block.size else fold([], total)
    return plan, [(Node(0, r),) if b.size else () for r, b in enumerate(blocks)], len(workers)
