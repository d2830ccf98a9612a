"""What each link carries when a forest runs, and how fast that lets it be.

Problem: edges are drawn between ranks, but links fill up.
Idea: lay every edge over the links on its way and add up shares. An edge names the rail of its first link only; where
several links join two nodes further on, whoever forwards takes the emptier one, so what is left open is spread like
water (`fill`). The rate for large data is 1 / the greatest load / bandwidth, exact in fractions.
Cost: O(edges of the forest * links on their way).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple, TypeVar

from manyhands.cluster import Cluster, Link
from manyhands.collective.blocks import Block
from manyhands.collective.forest import Edge, Forest
from manyhands.collective.partials import partials_of

Wire = tuple[str, str, str]
"""A physical link: source, target, rail."""
Number = TypeVar("Number", Fraction, float)


class Carried(NamedTuple):
    """What one edge puts on one link."""

    tree: int
    adds: bool
    """Whether the edge is of the reduce tree."""
    wire: Wire
    amount: Fraction
    """What the edge puts on the link, as a multiple of the data."""


def rate(forest: Forest, cluster: Cluster, *, contributions: Sequence[Block] | None = None) -> Fraction:
    """Bytes/s of data for large amounts of it.

    Args:
        contributions: if given, sums are in the order of the aligned tree, and each rank's block of its leaves is
            this; reduce edges then carry as many partial sums as `partials` says.
    """
    carried = loads(forest, cluster, contributions=contributions)
    width = {(link.source, link.target, link.rail): link.bandwidth for link in cluster.links}
    if not carried:
        raise ValueError("a forest without edges has no rate")
    return 1 / max(load / width[wire] for wire, load in carried.items())


def loads(forest: Forest, cluster: Cluster, *, contributions: Sequence[Block] | None = None) -> dict[Wire, Fraction]:
    """How many times the data each physical link carries; links without load are left out."""
    total: dict[Wire, Fraction] = {}
    for share in shares_of(forest, cluster, contributions=contributions):
        total[share.wire] = total.get(share.wire, Fraction(0)) + share.amount
    return total


def shares_of(forest: Forest, cluster: Cluster, *, contributions: Sequence[Block] | None = None) -> list[Carried]:
    """What every tree's edges put on every link; one edge after the other, what is left open at the end."""
    between = lanes(cluster)
    found: list[Carried] = []
    left_open: dict[tuple[str, str], list[tuple[int, bool, Fraction]]] = {}
    total: dict[Wire, Fraction] = {}
    for tree, adds, edge, amount in _traffic(forest, contributions):
        for index, pair in enumerate(pairwise((edge.source, *edge.via, edge.target))):
            wire = lane_of(edge, index, between[pair])
            if wire is None:
                left_open.setdefault(pair, []).append((tree, adds, amount))
            else:
                found.append(Carried(tree, adds, wire, amount))
                total[wire] = total.get(wire, Fraction(0)) + amount
    for (source, target), parts in left_open.items():
        links = between[source, target].values()
        wires = [(source, target, link.rail) for link in links]
        amount = sum((part for _, _, part in parts), Fraction(0))
        level = [(total.get(wire, Fraction(0)), link.bandwidth) for wire, link in zip(wires, links, strict=True)]
        for wire, share in zip(wires, fill(level, amount), strict=True):
            found += [Carried(tree, adds, wire, part * share / amount) for tree, adds, part in parts if share]
    return found


def lanes(cluster: Cluster) -> dict[tuple[str, str], dict[str, Link]]:
    """The links between each two neighbours, by rail."""
    found: dict[tuple[str, str], dict[str, Link]] = {}
    for link in cluster.links:
        found.setdefault((link.source, link.target), {})[link.rail] = link
    return found


def lane_of(edge: Edge, index: int, rails: Mapping[str, Link]) -> Wire | None:
    """The link that an edge takes for one step of its way; None if it leaves that open."""
    if len(rails) == 1:
        link = next(iter(rails.values()))
    elif index == 0 and edge.rail in rails:
        link = rails[edge.rail]
    else:
        return None
    return link.source, link.target, link.rail


def fill(carried: Sequence[tuple[Number, int]], amount: Number) -> list[Number]:
    """Spread an amount over links (their load and bandwidth) so that the fullest is as empty as can be."""
    order = sorted(range(len(carried)), key=lambda i: carried[i][0] / carried[i][1])
    level = carried[order[0]][0] / carried[order[0]][1]
    for count in range(1, len(order) + 1):
        # The level at which the `count` emptiest links hold it all.
        some = [carried[i] for i in order[:count]]
        level = (sum(load for load, _ in some) + amount) / sum(width for _, width in some)
        if count == len(order) or level <= carried[order[count]][0] / carried[order[count]][1]:
            break
    zero = amount - amount
    return [max(zero, level * width - load) for load, width in carried]


def _traffic(forest: Forest, contributions: Sequence[Block] | None) -> Iterator[tuple[int, bool, Edge, Fraction]]:
    for index, tree in enumerate(forest.trees):
        copies = partials_of(forest, tree, contributions) if contributions is not None else {}
        for edge in tree.reduce:
            yield index, True, edge, tree.share * copies.get(edge.source, 1)
        for edge in tree.broadcast:
            yield index, False, edge, tree.share
