"""The cheapest tree of a kind for given prices: which column a packing over explicit trees lacks most.

An entry with root r costs its cheapest reduce tree into r plus its cheapest broadcast tree out of r, each independent
of the other. Nodes without data that can copy (add) may be branch points of a broadcast (reduce) tree: every set of
them is tried while there are few, else each alone and all together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import combinations
from typing import NamedTuple

from manyhands.collective.forest import Operation
from manyhands.collective.packing.entries import Entry, flipped
from manyhands.collective.packing.network import Arc, Network
from manyhands.collective.packing.shortest import Price, arborescence, distances, undirected_tree
from manyhands.collective.packing.splitting import Path

_MOST_SETS = 4
"""All subsets of so many helpers are tried."""


class Offer(NamedTuple):
    """A tree and what it costs."""

    price: Price
    entry: Entry


Half = tuple[Price, tuple[Path, ...]]


class Pricing:
    """What trees an operation may use in a network.

    Args:
        roots: which nodes may be roots.
        reduce_halves: how to find the cheapest reduce tree of every root, where not any tree will do.
    """

    def __init__(
        self,
        network: Network,
        operation: Operation,
        roots: Sequence[int],
        reduce_halves: Callable[[Mapping[Arc, Price]], dict[int, Half]] | None = None,
    ) -> None:
        self.network = network
        self.adds = operation in ("all_reduce", "reduce", "reduce_scatter")
        self.copies = operation in ("all_reduce", "broadcast", "all_gather")
        self.roots = roots
        self.reduce_halves = reduce_halves
        self.is_complete = max(len(network.adders), len(network.copiers)) <= _MOST_SETS
        """Whether the cheapest of all trees is found."""

    def offers(self, prices: Mapping[Arc, Price]) -> list[Offer]:
        """The cheapest entry of each root that has one."""
        nothing: dict[int, Half] = dict.fromkeys(self.roots, (Fraction(0), ()))
        ups = downs = nothing
        if self.adds:
            ups = self.reduce_halves(prices) if self.reduce_halves else self._reduces(prices)
        if self.copies:
            downs = cheapest_broadcasts(self.network, prices, self.roots)
        return [
            Offer(ups[root][0] + downs[root][0], Entry(root, ups[root][1], downs[root][1]))
            for root in self.roots
            if root in ups and root in downs
        ]

    def _reduces(self, prices: Mapping[Arc, Price]) -> dict[int, Half]:
        turned = {(v, u): price for (u, v), price in prices.items()}
        found = cheapest_broadcasts(self.network.reversed(), turned, self.roots)
        return {root: (cost, flipped(paths)) for root, (cost, paths) in found.items()}


def cheapest_broadcasts(
    network: Network, prices: Mapping[Arc, Price], roots: Sequence[int]
) -> dict[int, tuple[Price, tuple[Path, ...]]]:
    """The cheapest tree from each root to all ranks."""
    best: dict[int, tuple[Price, tuple[Path, ...]]] = {}
    for extra in branch_sets(sorted(network.copiers)):
        terminals = sorted({*range(network.ranks), *extra})
        links = distances(prices, terminals)
        costs = {arc: cost for arc, (cost, _) in links.items()}
        for root in roots:
            if root not in terminals:
                continue
            arcs = arborescence(costs, terminals, root)
            if arcs is None:
                continue
            cost = sum((costs[arc] for arc in arcs[1:]), costs[arcs[0]])
            if root not in best or cost < best[root][0]:
                best[root] = (cost, tuple(links[arc][1] for arc in arcs))
    return best


def cheapest_mirrored(network: Network, prices: Mapping[Arc, float]) -> tuple[Path, ...] | None:
    """The cheapest undirected tree over the ranks of a duplex network: each path there and back."""
    both = {(u, v): price + prices[v, u] for (u, v), price in prices.items()}
    links = distances(both, range(network.ranks))
    arcs = undirected_tree({arc: cost for arc, (cost, _) in links.items()}, range(network.ranks), 0)
    return None if arcs is None else tuple(links[arc][1] for arc in arcs)


def branch_sets(helpers: Sequence[int]) -> Iterator[tuple[int, ...]]:
    if len(helpers) <= _MOST_SETS:
        for count in range(len(helpers) + 1):
            yield from combinations(helpers, count)
        return
    yield ()
    yield from ((helper,) for helper in helpers)
    yield tuple(helpers)
