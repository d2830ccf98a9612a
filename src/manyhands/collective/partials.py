"""How many partial sums travel along the edges of a tree when sums must be made in one order.

Problem: law 1 adds everything in the order of the aligned binary tree (`tree.py`), but the tree of a forest joins ranks
as links suggest. A node that holds leaves 1 and 2 cannot add them: 1 belongs to 0, and 2 to 3.
Idea: it hands on both. What lies below an edge is a set of leaves; the fewest partial sums that describe it are the
largest nodes of the aligned tree within it. A subtree that fits the order costs one, like any other sum.
Cost: O(ranks log ranks) per edge, with the leaves below kept in order.
"""

from __future__ import annotations

from collections.abc import Sequence

from manyhands.collective.blocks import Block
from manyhands.collective.forest import Edge, Forest, Tree
from manyhands.collective.tree import Node, pieces


def partials(forest: Forest, tree: Tree, edge: Edge, contributions: Sequence[Block] | None = None) -> int:
    """The partial sums on one edge of the reduce tree.

    Args:
        contributions: each rank's block of leaves, in rank order; together they tile the leaves. Default: one each.
    """
    return partials_of(forest, tree, contributions)[edge.source]


def partials_of(forest: Forest, tree: Tree, contributions: Sequence[Block] | None = None) -> dict[str, int]:
    """For every node that hands on a sum, how many partial sums that takes."""
    blocks = contributions if contributions is not None else one_leaf_each(len(forest.members))
    total = max(block.stop for block in blocks)
    below: dict[str, list[Block]] = {name: [block] for name, block in zip(forest.members, blocks, strict=True)}
    counts: dict[str, int] = {}
    for edge in tree.reduce:
        mine = below.pop(edge.source, [])
        counts[edge.source] = len(largest_nodes(mine, total))
        below.setdefault(edge.target, []).extend(mine)
    return counts


def one_leaf_each(members: int) -> list[Block]:
    """The blocks of ranks that bring one leaf each: rank r brings leaf r."""
    return [Block(rank, rank + 1) for rank in range(members)]


def largest_nodes(blocks: Sequence[Block], total: int) -> list[Node]:
    """The fewest nodes of the aligned tree over `total` leaves that together are these blocks."""
    runs: list[Block] = []
    for block in sorted(block for block in blocks if block.size):
        if runs and runs[-1].stop == block.start:
            runs[-1] = Block(runs[-1].start, block.stop)
        else:
            runs.append(block)
    return [node for run in runs for node in pieces(run.start, run.stop, total)]
