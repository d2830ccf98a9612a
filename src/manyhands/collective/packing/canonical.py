"""Reduce trees that add in the job's order: the cheapest ones for given prices.

Problem: law 1 fixes the order of every sum, the aligned binary tree over the ranks (collective/tree.py). A reduce tree
respects it if each of its edges carries one partial sum of that tree: the ranks below the edge are the leaves of one
aligned node. Stars and binomial trees of neighbouring blocks do; rings do not.

Idea: let cost(A, v) be the cheapest way to have the sum of aligned node A at v, a leaf of it, and bring(S, p) the
cheapest way to have all leaves of S arrive at p outside of it, as one sum or as those of its halves:

    cost(parent of A, v) = cost(A, v) + bring(sibling of A, v)
    bring(S, p) = min( min over u in S of cost(S, u) + distance(u, p),  bring(left of S, p) + bring(right of S, p) )

Cost: O(n**2 log n) for all roots together. The tables are filled once for all roots.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

from manyhands.collective.packing.network import Arc, Network
from manyhands.collective.packing.shortest import Price, distances
from manyhands.collective.packing.splitting import Path

Block = tuple[int, int]
"""The leaves [start, stop) of an aligned node."""
Way = tuple[Price, tuple[Path, ...]]


class CanonicalTrees:
    """The cheapest canonical reduce trees in a network, into any rank or any helper that adds."""

    def __init__(self, network: Network, roots: Sequence[int]) -> None:
        self.ranks = network.ranks
        self.roots = roots
        self.halves: dict[Block, tuple[Block, Block]] = {}
        self.whole = self._divide(0, 1 << max(0, network.ranks - 1).bit_length())

    def _divide(self, start: int, stop: int) -> Block:
        """Note the halves of an aligned node; one whose right half has no leaves is its left half."""
        block = (start, min(stop, self.ranks))
        middle = (start + stop) // 2
        if stop - start == 1:
            return block
        left = self._divide(start, middle)
        if middle >= self.ranks:
            return left
        self.halves[block] = (left, self._divide(middle, stop))
        return block

    def __call__(self, prices: Mapping[Arc, Price]) -> dict[int, Way]:
        """The cheapest tree into each root that has one."""
        search = _Search(self.halves, distances(prices, {*range(self.ranks), *self.roots}))
        ways = {
            root: search.cost(self.whole, root) if root < self.ranks else search.bring(self.whole, root)
            for root in self.roots
        }
        return {root: way for root, way in ways.items() if way is not None}


def halving_tree(trees: CanonicalTrees, root: int, block: Block | None = None) -> list[Arc]:
    """The binomial tree of recursive halving into a root: each half is summed at the rank of the same position."""
    block = block or trees.whole
    if block not in trees.halves:
        return []
    left, right = trees.halves[block]
    own, other = (left, right) if root < left[1] else (right, left)
    partner = min(other[0] + root - own[0], other[1] - 1)
    return [*halving_tree(trees, root, own), *halving_tree(trees, partner, other), (partner, root)]


class _Search:
    """One pass over the tables; None where no path leads."""

    def __init__(self, halves: Mapping[Block, tuple[Block, Block]], links: Mapping[Arc, tuple[Price, Path]]) -> None:
        self.halves = halves
        self.links = links
        self._costs: dict[tuple[Block, int], Way | None] = {}
        self._brings: dict[tuple[Block, int], Way | None] = {}

    def cost(self, block: Block, at: int) -> Way | None:
        """The cheapest way to have the sum of a block at one of its leaves."""
        if block not in self.halves:
            return Fraction(0), ()
        key = (block, at)
        if key not in self._costs:
            left, right = self.halves[block]
            own, other = (left, right) if at < left[1] else (right, left)
            self._costs[key] = _both(self.cost(own, at), self.bring(other, at))
        return self._costs[key]

    def bring(self, block: Block, to: int) -> Way | None:
        """The cheapest way to have all of a block arrive at a node outside of it."""
        key = (block, to)
        if key not in self._brings:
            self._brings[key] = self._brought(block, to)
        return self._brings[key]

    def _brought(self, block: Block, to: int) -> Way | None:
        best: Way | None = None
        for leaf in range(*block):
            if (leaf, to) not in self.links:
                continue
            way = self.cost(block, leaf)
            price, path = self.links[leaf, to]
            if way is not None and (best is None or way[0] + price < best[0]):
                best = (way[0] + price, (*way[1], path))
        if block in self.halves:
            left, right = self.halves[block]
            apart = _both(self.bring(left, to), self.bring(right, to))
            if apart is not None and (best is None or apart[0] < best[0]):
                best = apart
        return best


def _both(first: Way | None, second: Way | None) -> Way | None:
    if first is None or second is None:
        return None
    return first[0] + second[0], first[1] + second[1]
