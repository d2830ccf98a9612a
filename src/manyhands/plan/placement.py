"""Which node each rank of a layout runs on.

Problem: dimensions of a layout talk unequally much: tensor groups in every layer, replicas once a step, pipeline
neighbours once a micro-batch and little. Give tensor groups the fastest links, then replicas, then stages.
Idea: maximise, one after the other, the slowest pair within tensor groups, within replica groups, and over pipeline
hops. Whether some speeds can be had is a search: give ranks nodes one by one, in the cluster's order, and go back when
a pair is too slow. Bisection over the speeds that occur finds the best for tensor groups, then, keeping it, for the
others. A pair's speed is the bandwidth of its path, halved where one other rank has to pass the data on.
Cost: O(log n) searches per dimension. A search is exponential at worst; it ends after `LIMIT` steps and then counts as
in vain, so that the answer is optimal for a dozen unequal nodes, or many equal ones, and good beyond.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations, pairwise

from manyhands.cluster import Cluster
from manyhands.collective.algorithms.routes import Routes
from manyhands.errors import UsageError, UserError
from manyhands.plan.layout import Dimension, Layout

LIMIT = 20_000
"""Steps of one search."""
ORDER: tuple[Dimension, ...] = ("tp", "dp", "pp")
"""Whose links come first."""


def place(layout: Layout, cluster: Cluster, per_node: int = 1) -> tuple[str, ...]:
    """The node's name for every rank. Where all links are equal, ranks follow the cluster's order.

    Args:
        per_node: workers that may share a node.

    Raises:
        UsageError: the layout has more workers than there are places.
        UserError: nodes that cannot reach each other.
    """
    slots = [name for name in cluster.ranks for _ in range(per_node)]
    if layout.workers > len(slots):
        raise UsageError(
            f"layout {layout} has {layout.workers} workers, and cluster {cluster.name} has places for {len(slots)}. "
            f"Use a layout of {len(slots)} or fewer, or let workers share a node."
        )
    speeds = _speeds(cluster, slots)
    levels = sorted({speed for row in speeds for speed in row})
    floors = dict.fromkeys(ORDER, 0.0)
    best = _search(layout, speeds, floors)
    assert best is not None  # nothing was asked for
    for dimension in ORDER:
        low, high = 0, len(levels) - 1 if getattr(layout, dimension) > 1 else 0
        while low < high:
            middle = (low + high + 1) // 2
            found = _search(layout, speeds, {**floors, dimension: levels[middle]})
            if found is None:
                high = middle - 1
            else:
                low, best = middle, found
        floors[dimension] = levels[low]
    return tuple(slots[slot] for slot in best)


def talking(layout: Layout, dimension: Dimension) -> list[tuple[int, int]]:
    """The pairs of ranks that exchange data along a dimension: all of a group, or neighbours in the pipeline."""
    pairs = []
    for group in layout.groups(dimension):
        if dimension == "pp":
            pairs += list(pairwise(group))
            if layout.schedule == "interleaved" and len(group) > 2:
                pairs.append((group[0], group[-1]))  # from a round of stages to the next
        else:
            pairs += list(combinations(group, 2))
    return pairs


def pair_speed(cluster: Cluster, routes: Routes, a: str, b: str) -> float:
    """Bytes/s between two nodes, in the slower direction; unlimited where only memory joins them."""
    if a == b:
        return math.inf
    nodes = cluster.by_name[a], cluster.by_name[b]
    shares_memory = all(node.kind == "host" for node in nodes) and nodes[0].host == nodes[1].host != ""
    try:
        ways = (routes.between(a, b), routes.between(b, a))
    except UserError:
        if not shares_memory:
            raise
        return math.inf
    if shares_memory and any(way.relays for way in ways):
        return math.inf
    return min(way.bandwidth / (1 + way.relays) for way in ways)


def _speeds(cluster: Cluster, slots: Sequence[str]) -> list[list[float]]:
    routes = Routes(cluster)
    known = {(a, b): pair_speed(cluster, routes, a, b) for a in cluster.ranks for b in cluster.ranks}
    return [[known[a, b] for b in slots] for a in slots]


def _search(layout: Layout, speeds: Sequence[Sequence[float]], floors: dict[Dimension, float]) -> list[int] | None:
    """A slot for every rank such that no pair is slower than its dimension's floor; None if none is found."""
    needs = _needs(layout, floors)
    firsts = _firsts(layout)
    chosen: list[int] = []
    free = [True] * len(speeds)
    start = 0
    for _ in range(LIMIT + layout.workers):
        rank = len(chosen)
        if rank == layout.workers:
            return chosen
        least = max(start, chosen[firsts[rank]] + 1 if firsts[rank] >= 0 else 0)
        slot = next(
            (
                slot
                for slot in range(least, len(speeds))
                if free[slot] and all(speeds[chosen[other]][slot] >= floor for other, floor in needs[rank])
            ),
            None,
        )
        if slot is not None:
            chosen.append(slot)
            free[slot] = False
            start = 0
        elif chosen:  # go back, and on from there
            start = chosen.pop() + 1
            free[start - 1] = True
        else:
            return None
    return None


def _needs(layout: Layout, floors: dict[Dimension, float]) -> list[list[tuple[int, float]]]:
    """By rank: the ranks before it that it talks to, and how fast."""
    needs: list[list[tuple[int, float]]] = [[] for _ in range(layout.workers)]
    for dimension, floor in floors.items():
        if floor > 0:
            for a, b in talking(layout, dimension):
                needs[max(a, b)].append((min(a, b), floor))
    return needs


def _firsts(layout: Layout) -> list[int]:
    """By rank: one that must have a slot before its own, or -1. Shards may be renumbered, all alike, and so may
    replicas, so that only one numbering of each has to be tried."""
    firsts = [-1] * layout.workers
    for shard in range(1, layout.tp):
        firsts[shard] = shard - 1
    for replica in range(1, layout.dp):
        firsts[layout.rank_of(0, replica, 0)] = layout.rank_of(0, replica - 1, 0)
    return firsts
