"""A worker's part of the sum: micro-batch after micro-batch, folded into subtrees as it goes.

At most `log2(micro-batches) + 1` gradients are alive at any time. Additions run in place on gradients that
autograd has handed over; the last addition of a finished subtree writes straight into the memory from which
the other workers read it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from manyhands.collective import Fold


class LocalSum:
    """Folds one row of tensors per micro-batch into the block's subtrees.

    Args:
        plan: the additions, one entry per micro-batch of the block.
        outputs: `outputs[piece][item]` receives the finished subtrees; None leaves the (single) result with
            the caller.
    """

    def __init__(self, plan: Fold, outputs: Sequence[Sequence[Tensor]] | None) -> None:
        self._adds = plan.adds
        self._outputs = outputs
        self._depth = _depths(plan.adds)
        self._stack: list[dict[int, Tensor]] = [{} for _ in range(max(self._depth, default=-1) + 1)]

    def push(self, leaf: int, items: Sequence[int], tensors: Sequence[Tensor]) -> None:
        """Add micro-batch `leaf`'s values of `items`. The tensors belong to the sum from now on."""
        if not items:
            return
        depth, adds = self._depth[leaf], self._adds[leaf]
        piece = depth - adds
        final = self._outputs is not None and self._is_final(leaf, piece)
        top = list(tensors)
        for level in range(depth - 1, piece - 1, -1):
            left = [self._stack[level][item] for item in items]
            if final and level == piece:
                outputs = self._outputs[piece]  # type: ignore[index]
                for item, a, b in zip(items, left, top, strict=True):
                    torch.add(a, b, out=outputs[item])
            else:
                torch._foreach_add_(left, top)
            top = left
        if final and not adds:
            torch._foreach_copy_([self._outputs[piece][item] for item in items], top)  # type: ignore[index]
        if not final:
            self._stack[piece].update(zip(items, top, strict=True))

    def result(self, item: int) -> Tensor:
        """The sum of a block that is the whole tree."""
        return self._stack[0][item]

    def clear(self) -> None:
        """Let go of all tensors."""
        for entry in self._stack:
            entry.clear()

    def _is_final(self, leaf: int, piece: int) -> bool:
        """Whether no later micro-batch of the block is added to stack entry `piece`."""
        return all(d - a > piece for d, a in zip(self._depth[leaf + 1 :], self._adds[leaf + 1 :], strict=True))


def _depths(adds: Sequence[int]) -> list[int]:
    """Stack height just before each leaf is pushed."""
    depths, height = [], 0
    for count in adds:
        depths.append(height)
        height += 1 - count
    return depths
