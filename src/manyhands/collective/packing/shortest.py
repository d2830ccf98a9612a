"""Cheapest trees for given prices of the links: what a packing over explicit trees asks for again and again.

Prices are floats while searching and fractions where a bound is proved; everything here works with both.

- `distances`: Dijkstra between nodes that add and copy, through nodes that only forward.
- `arborescence`: the cheapest tree that leads from a root to all others (Chu-Liu 1965, Edmonds 1967): every node takes
  its cheapest link in; a cycle is shrunk to one node, where entering it costs what it saves inside. O(n**3).
- `undirected_tree`: the same where prices are equal both ways (Prim).
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping
from fractions import Fraction

from manyhands.collective.packing.network import Arc
from manyhands.collective.packing.splitting import Path

Price = float | Fraction


def distances(prices: Mapping[Arc, Price], terminals: Collection[int]) -> dict[Arc, tuple[Price, Path]]:
    """The cheapest path between any two terminals that passes through no other terminal."""
    near: dict[int, list[tuple[int, Price]]] = {}
    for (u, v), price in prices.items():
        near.setdefault(u, []).append((v, price))
    ends = frozenset(terminals)
    found: dict[Arc, tuple[Price, Path]] = {}
    for start in ends:
        queue: list[tuple[Price, int, Path]] = [(price, 1, (start, v)) for v, price in near.get(start, ())]
        heapq.heapify(queue)
        seen = {start}
        while queue:
            cost, hops, path = heapq.heappop(queue)
            node = path[-1]
            if node in seen:
                continue
            seen.add(node)
            if node in ends:
                found[start, node] = (cost, path)
                continue
            for v, price in near.get(node, ()):
                if v not in seen:
                    heapq.heappush(queue, (cost + price, hops + 1, (*path, v)))
    return found


def arborescence(costs: Mapping[Arc, Price], nodes: Collection[int], root: int) -> list[Arc] | None:
    """The cheapest arcs that lead from the root to all nodes, parents first. None: some cannot be reached."""
    chosen: dict[int, Arc] = {}
    for (u, v), cost in costs.items():
        if v != root and (v not in chosen or cost < costs[chosen[v]]):
            chosen[v] = (u, v)
    if any(node != root and node not in chosen for node in nodes):
        return None
    cycle = _cycle(chosen, root)
    if not cycle:
        return _outward([chosen[node] for node in nodes if node != root], root)
    inside = frozenset(cycle)
    merged = max(nodes) + 1
    shrunk: dict[Arc, Price] = {}
    origin: dict[Arc, Arc] = {}
    for (u, v), cost in costs.items():
        if u in inside and v in inside:
            continue
        arc = (merged if u in inside else u, merged if v in inside else v)
        saved = cost - costs[chosen[v]] if v in inside else cost
        if arc not in shrunk or saved < shrunk[arc]:
            shrunk[arc], origin[arc] = saved, (u, v)
    inner = arborescence(shrunk, [node for node in nodes if node not in inside] + [merged], root)
    if inner is None:
        return None
    arcs = [origin[arc] for arc in inner]
    entered = next(v for _, v in arcs if v in inside)
    return _outward(arcs + [chosen[node] for node in cycle if node != entered], root)


def undirected_tree(costs: Mapping[Arc, Price], nodes: Collection[int], root: int) -> list[Arc] | None:
    """Prim's tree, for costs that are equal both ways."""
    left = {node: (root, node) for node in nodes if (root, node) in costs}
    arcs: list[Arc] = []
    reached = {root}
    while len(reached) < len(nodes):
        if not left:
            return None
        arc = min(left.values(), key=costs.__getitem__)
        node = arc[1]
        arcs.append(arc)
        reached.add(node)
        del left[node]
        for other in nodes:
            link = (node, other)
            if other not in reached and link in costs and (other not in left or costs[link] < costs[left[other]]):
                left[other] = link
    return arcs


def _cycle(chosen: Mapping[int, Arc], root: int) -> list[int]:
    done = {root}
    for start in chosen:
        trail: list[int] = []
        node = start
        while node not in done and node not in trail:
            trail.append(node)
            if node not in chosen:
                break
            node = chosen[node][0]
        if node in trail and node in chosen:
            return trail[trail.index(node) :]
        done |= set(trail)
    return []


def _outward(arcs: list[Arc], root: int) -> list[Arc]:
    near: dict[int, list[Arc]] = {}
    for arc in arcs:
        near.setdefault(arc[0], []).append(arc)
    order: list[Arc] = []
    queue = [root]
    for node in queue:
        for arc in near.get(node, ()):
            order.append(arc)
            queue.append(arc[1])
    return order
