"""In which order a ring visits the ranks.

Problem: a ring is as fast as its slowest link, counting every physical link as often as the ring passes it.
Idea: for each bandwidth b that occurs, take the cycle with the fewest links among those whose hops have at least b
(dynamic programming over subsets, exact), and keep the cycle with the best true bottleneck. Beyond 10 ranks the
programme is too large: go to the widest, nearest unvisited rank, and keep the given order if that is no worse.
Cost: O(n^2 2^n) for n <= 10, O(n^2) beyond. Source: Held and Karp, J. SIAM 10 (1962); nearest neighbour.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from manyhands.collective.algorithms.routes import Route, Routes

EXACT = 10
"""Ranks up to which the order is optimal; 10 take 0.1 s, every further one twice as long."""


def ring_order(routes: Routes, members: Sequence[str]) -> tuple[str, ...]:
    """The members, each next to its neighbours on the ring, beginning with the first."""
    members = tuple(members)
    if len(members) <= 3:
        return members if len(members) < 3 else _best(routes, [members, (members[0], members[2], members[1])])
    candidates = [members]
    if len(members) <= EXACT:
        hops = {(a, b): routes.between(a, b) for a in members for b in members if a != b}
        for bandwidth in sorted({route.bandwidth for route in hops.values()}):
            cycle = _fewest_links(
                members, {pair: route for pair, route in hops.items() if route.bandwidth >= bandwidth}
            )
            if cycle:
                candidates.append(cycle)
    else:
        candidates.append(_nearest(routes, members))
    return _best(routes, candidates)


def bottleneck(routes: Routes, around: Sequence[str]) -> float:
    """Bytes/s on the slowest link of the ring, where a link that it passes k times counts as 1/k of its bandwidth."""
    passes = Counter(link for hop in _hops(routes, around) for link in hop.links)
    capacity = routes.cluster.capacity
    return min((capacity[link] / times for link, times in passes.items()), default=math.inf)


def _best(routes: Routes, candidates: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    def merit(around: tuple[str, ...]) -> tuple[float, int, float]:
        hops = _hops(routes, around)
        return -bottleneck(routes, around), sum(len(hop.links) for hop in hops), sum(hop.latency for hop in hops)

    return min(candidates, key=merit)  # the first of equals: the given order if it will do


def _hops(routes: Routes, around: Sequence[str]) -> list[Route]:
    return [routes.between(a, b) for a, b in pairwise((*around, around[0])) if a != b]


def _fewest_links(members: tuple[str, ...], hops: dict[tuple[str, str], Route]) -> tuple[str, ...] | None:
    """The cycle over these hops with the fewest links, or None if there is no cycle."""
    last = len(members) - 1
    price = [[len(hops[a, b].links) if (a, b) in hops else 0 for b in members] for a in members]
    # best[visited, at]: fewest links from members[last] through `visited` (bits) to `at`, and the rank before.
    best: list[dict[int, tuple[int, int]]] = [{} for _ in range(1 << last)]
    for at in range(last):
        if price[last][at]:
            best[1 << at][at] = (price[last][at], last)
    for visited in range(1, 1 << last):
        for at, (links, _) in best[visited].items():
            for to in range(last):
                if price[at][to] and not visited >> to & 1:
                    option = (links + price[at][to], at)
                    there = best[visited | 1 << to]
                    if to not in there or option < there[to]:
                        there[to] = option
    everyone = (1 << last) - 1
    ends = [(links + price[at][last], at) for at, (links, _) in best[everyone].items() if price[at][last]]
    if not ends:
        return None
    at, visited, around = min(ends)[1], everyone, [last]
    while at != last:
        around.append(at)
        visited, at = visited & ~(1 << at), best[visited][at][1]
    around.reverse()
    start = around.index(0)
    return tuple(members[i] for i in (*around[start:], *around[:start]))


def _nearest(routes: Routes, members: tuple[str, ...]) -> tuple[str, ...]:
    """A ring from each rank to the unvisited one with the fewest relays, the widest path, the fewest links."""
    around, left = [members[0]], dict.fromkeys(members[1:])
    while left:
        here = around[-1]

        def distance(name: str, here: str = here) -> tuple[int, int, int]:
            route = routes.between(here, name)
            return route.relays, -route.bandwidth, len(route.links)

        nearest = min(left, key=distance)
        del left[nearest]
        around.append(nearest)
    return tuple(around)
