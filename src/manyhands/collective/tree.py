"""The aligned binary tree: the one order in which anything is ever summed.

Problem: floating-point addition is not associative, so a sum over micro-batches depends on how the machines
happen to group them. Idea: fix the grouping once, as a binary tree over the micro-batch index, and let every
worker compute whole subtrees of it. Node `(level, index)` covers the micro-batches

    index * 2**level  ...  min((index + 1) * 2**level, total) - 1

and is the sum of its two children, left operand first; a node whose right child lies beyond `total` *is* its
left child, at no cost. A contiguous block of n micro-batches is at most `2 log2 n` such nodes, so a worker hands over
few partial sums whatever its share, and `total - 1` additions are made in all, as in any other order.

Source: pairwise summation (Higham, "The accuracy of floating point summation", 1993), whose error grows with
log2(total) rather than total; the alignment is what makes it independent of the number of workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Node(NamedTuple):
    """A subtree: the micro-batches `[index << level, (index + 1) << level)` that exist."""

    level: int
    index: int

    @property
    def start(self) -> int:
        return self.index << self.level

    def sibling_is_absent(self, total: int) -> bool:
        """Whether the right sibling holds no micro-batch at all, so the parent is this node."""
        return self.index % 2 == 0 and (self.index + 1) << self.level >= total and self.start > 0

    @property
    def parent(self) -> Node:
        return Node(self.level + 1, self.index >> 1)


class Fold(NamedTuple):
    """The additions that turn a row of nodes into as few as possible.

    `adds[i]` is how many times, after node i is pushed on a stack, the top two entries are replaced by their
    sum (lower one as the left operand). `rest` is what the stack holds at the end, left to right.
    """

    adds: tuple[int, ...]
    rest: tuple[Node, ...]


def fold(nodes: Sequence[Node], total: int) -> Fold:
    """Plan the sum of adjacent nodes, left to right, as far as they complete larger subtrees.

    Args:
        nodes: contiguous, in order; single micro-batches are `Node(0, i)`.
        total: micro-batches in the whole tree.
    """
    stack: list[Node] = []
    adds: list[int] = []
    for node in nodes:
        stack.append(_promote(node, total))
        count = 0
        while len(stack) > 1 and _are_siblings(stack[-2], stack[-1]):
            stack[-2:] = [_promote(stack[-2].parent, total)]
            count += 1
        adds.append(count)
    return Fold(tuple(adds), tuple(stack))


def leaves(start: int, stop: int) -> list[Node]:
    """The single micro-batches `[start, stop)`."""
    return [Node(0, index) for index in range(start, stop)]


def pieces(start: int, stop: int, total: int) -> tuple[Node, ...]:
    """The largest subtrees that tile the block `[start, stop)`: what its owner has to hand over."""
    return fold(leaves(start, stop), total).rest


def _promote(node: Node, total: int) -> Node:
    while node.sibling_is_absent(total):
        node = node.parent
    return node


def _are_siblings(left: Node, right: Node) -> bool:
    return left.level == right.level and left.index % 2 == 0 and right.index == left.index + 1
