"""Sparse sums in the order of law 1: rows of few ids, folded in the aligned tree as dense gradients are.

Problem: the gradient of a table is zero but for some hundred rows of millions, and which, differs between
micro-batches. Idea: a micro-batch's gradient is its rows, sorted by id; the sum of two is the union of their ids.
Where both have a row it is one fp32 addition, where one has it, the addition of zero, so every total has the bits
that the dense sum over the same tree has. Cost of an addition: O((n + m) log(n + m)) for the ids and (n + m) w
additions. An id that is in all micro-batches travels once per subtree.

Source: the tree is `manyhands.collective.tree`'s; `sync/local_sum.py` is the dense twin.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from manyhands.collective import Fold, Node, fold


class Rows(NamedTuple):
    """Some rows of a table: gradients, or their sums."""

    ids: Tensor
    """int64 [n], sorted, each once."""
    values: Tensor
    """fp32 [n, width]."""


def no_rows(width: int) -> Rows:
    """The gradient of a table that was not used."""
    return Rows(torch.empty(0, dtype=torch.int64, device="cpu"), torch.empty(0, width, device="cpu"))


def add(left: Rows, right: Rows) -> Rows:
    """The sum of two, row by row, left operand first. Neither is changed; the result may share their memory."""
    if torch.equal(left.ids, right.ids):
        return Rows(left.ids, left.values + right.values)
    at_left, at_right = left.ids.numpy(), right.ids.numpy()
    ids = np.union1d(at_left, at_right)
    at_left, at_right = np.searchsorted(ids, at_left), np.searchsorted(ids, at_right)
    values = np.zeros((len(ids), left.values.shape[1]), np.float32)
    values[at_left] = left.values.numpy()
    only_left = np.ones(len(ids), bool)
    only_left[at_right] = False
    values[only_left] += 0.0  # turns -0.0 into 0.0, as the dense sum does
    values[at_right] += right.values.numpy()
    return Rows(torch.from_numpy(ids), torch.from_numpy(values))


def divide(rows: Rows, owners: int) -> list[Rows]:
    """Each owner's rows: those whose id modulo the number of owners is its number."""
    parts = [rows.ids % owners == owner for owner in range(owners)]
    return [Rows(rows.ids[part], rows.values[part]) for part in parts]


class RowSum:
    """Folds the rows of one micro-batch after another into the block's subtrees.

    At most `log2(micro-batches) + 1` sums are alive at any time.

    Args:
        plan: the additions, one entry per micro-batch of the block.
    """

    def __init__(self, plan: Fold) -> None:
        self._adds = plan.adds
        self._stack: list[Rows] = []

    def push(self, leaf: int, rows: Rows) -> None:
        """Add micro-batch `leaf`'s rows; leaves come in order. The tensors belong to the sum from now on."""
        self._stack.append(rows)
        for _ in range(self._adds[leaf]):
            right = self._stack.pop()
            self._stack[-1] = add(self._stack[-1], right)

    def pieces(self) -> list[Rows]:
        """The finished subtrees, left to right, one for each of the plan's `rest`."""
        return list(self._stack)

    def clear(self) -> None:
        """Let go of all rows, ready for the next step."""
        self._stack.clear()


def combine(nodes: Sequence[Sequence[Node]], pieces: Sequence[Sequence[Rows]], total: int) -> Rows:
    """The sum over all workers.

    Args:
        nodes: the subtrees that each worker hands over, in rank order.
        pieces: their sums, in the same order.
        total: micro-batches of the whole tree.
    """
    every_node = [node for part in nodes for node in part]
    plan = fold(every_node, total)
    whole = RowSum(plan)
    for leaf, rows in enumerate(rows for part in pieces for rows in part):
        whole.push(leaf, rows)
    (result,) = whole.pieces()
    return result
