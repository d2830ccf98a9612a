"""Edmonds' packing: spanning trees out of given roots, of given weights, that fit into the capacities of all links.

Idea: a batch is a tree under construction with a weight. It grows by a link (x, y) that leads out of it, by as much
weight mu as leaves all other batches their chance: for every set D with y and without x,

    capacity into D - mu >= weight of the other batches that have not yet reached D,

whose minimum over D is one max-flow from x to y, in which each other batch gives y's side its nodes (x -> batch ->
its nodes). If mu is less than the batch's weight, the rest goes on as a batch of its own. Some link always has
mu > 0; taking the one with most keeps trees few, taking near ones first keeps them low.

Cost: O(trees * n) steps of a few max-flows each. The number of trees is at most links + roots in practice.

Source: Edmonds 1973; Lovasz 1976; Berczi, Frank, "Packing arborescences", 2010; Tarjan 1977; as used by ForestColl.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from manyhands.collective.packing.flow import Flows
from manyhands.collective.packing.network import Arc


@dataclass
class Batch:
    """`weight` trees that are alike so far."""

    root: int
    weight: int
    depth: dict[int, int]
    """The depth of each node that the trees have reached."""
    arcs: list[Arc] = field(default_factory=list)

    def split(self, weight: int) -> Batch:
        """Take so much off as a batch of its own."""
        self.weight -= weight
        return Batch(self.root, weight, dict(self.depth), list(self.arcs))


def pack_arborescences(ranks: int, roots: Mapping[int, int], capacity: Mapping[Arc, int]) -> list[Batch]:
    """Trees over all ranks, whose weights add up to `roots` and whose load on no link exceeds its capacity.

    It has to be possible: into every set D of ranks leads as much capacity as is rooted outside of D.
    """
    waiting = [Batch(root, weight, {root: 0}) for root, weight in sorted(roots.items()) if weight > 0]
    left = {arc: amount for arc, amount in capacity.items() if amount > 0}
    done: list[Batch] = []
    while waiting:
        batch = waiting.pop()
        while len(batch.depth) < ranks:
            arc, much = _next_arc(ranks, batch, waiting, left)
            if much < batch.weight:
                waiting.append(batch.split(batch.weight - much))
            batch.arcs.append(arc)
            batch.depth[arc[1]] = batch.depth[arc[0]] + 1
            left[arc] -= much
            if not left[arc]:
                del left[arc]
        done.append(batch)
    return done


def _next_arc(ranks: int, batch: Batch, others: list[Batch], left: dict[Arc, int]) -> tuple[Arc, int]:
    """The link that all of the batch can take, the nearest to the root; else the one that most of it can take."""
    outward = [(u, v) for u, v in left if u in batch.depth and v not in batch.depth]
    outward.sort(key=lambda arc: (left[arc] < batch.weight, batch.depth[arc[0]], -left[arc], arc))
    best, most = outward[0], 0
    for arc in outward:
        limit = min(batch.weight, left[arc])
        if limit <= most:
            continue
        much = min(limit, _spare(ranks, arc, others, left))
        if much > most:
            best, most = arc, much
        if most == batch.weight:
            break
    if not most:
        raise ArithmeticError("trees do not fit: the capacities do not carry what is rooted")
    return best, most


def _spare(ranks: int, arc: Arc, others: list[Batch], left: Mapping[Arc, int]) -> int:
    """How much of a link is not needed by the other batches."""
    x, y = arc
    graph = dict(left)
    size = ranks
    total = 0
    for other in others:
        total += other.weight
        if len(other.depth) == 1:
            if other.root != x:  # y's side can only have it if it is not x itself
                graph[x, other.root] = graph.get((x, other.root), 0) + other.weight
            continue
        graph[x, size] = other.weight
        for node in other.depth.keys() - {x}:
            graph[size, node] = other.weight
        size += 1
    return Flows(size, graph).value(x, y) - total
