"""Which way an edge of a tree takes through the machines.

Problem: algorithms speak of edges between ranks; clusters have switches between them, or no link at all.
Idea: an edge takes the path with the fewest nodes that must relay (a switch forwards for nothing, a rank has to
receive and send), among those the widest, among those the shortest. One label-setting search per source, because
relays and hops add up and width is the least along the way: no label gets better by going on.
Cost: O(links log nodes) per source. Source: widest path, e.g. Pollack, Operations Research 8 (1960).
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

from manyhands.cluster import Cluster, Link
from manyhands.collective.forest import Edge, Operation, Tree
from manyhands.errors import UserError


class Route(NamedTuple):
    """A path between two nodes that takes part in a collective."""

    edge: Edge
    relays: int
    """How many of the nodes on the way have to receive and send, not just forward."""
    bandwidth: int
    """Bytes/s of its narrowest link."""
    latency: float

    @property
    def links(self) -> tuple[tuple[str, str], ...]:
        """The links, by their ends."""
        stops = (self.edge.source, *self.edge.via, self.edge.target)
        return tuple(pairwise(stops))


class Routes:
    """The paths of one cluster, found when asked for."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._from: dict[str, dict[str, Route]] = {}

    @cached_property
    def _out(self) -> dict[str, list[tuple[Link, str]]]:
        """The widest link to each neighbour of each node, and its rail where there are others beside it."""
        between: dict[tuple[str, str], list[Link]] = {}
        for link in self.cluster.links:
            between.setdefault((link.source, link.target), []).append(link)
        out: dict[str, list[tuple[Link, str]]] = {node.name: [] for node in self.cluster.nodes}
        for (source, _), links in between.items():
            widest = max(links, key=lambda link: link.bandwidth)
            out[source].append((widest, widest.rail if len(links) > 1 else ""))
        return out

    def between(self, source: str, target: str) -> Route:
        """Raises:
        UserError: nothing leads there.
        """
        if source not in self._from:
            self._from[source] = self._search(source)
        route = self._from[source].get(target)
        if route is None:
            kinds = sorted({link.kind for link in self.cluster.links if link.kind})
            over = f" over links of kind {', '.join(kinds)}" if kinds else ""
            raise UserError(
                f"cluster {self.cluster.name}: no path leads from {source} to {target}{over}. "
                "Leave one of them out, or allow more kinds of links."
            )
        return route

    def edge(self, source: str, target: str) -> Edge:
        return self.between(source, target).edge

    def _search(self, source: str) -> dict[str, Route]:
        found: dict[str, Route] = {}
        # (relays, -bandwidth, hops, tie-break, node, nodes on the way, rail, latency)
        queue: list[tuple[int, int, int, int, str, tuple[str, ...], str, float]] = [
            (0, -(1 << 63), 0, 0, source, (), "", 0.0)
        ]
        count = 0
        done: set[str] = set()
        while queue:
            relays, width, hops, _, at, via, rail, latency = heapq.heappop(queue)
            if at in done:
                continue
            done.add(at)
            if at != source:
                found[at] = Route(Edge(source, at, via, rail), relays, -width, latency)
                relays += self.cluster.by_name[at].kind != "switch"
                via = (*via, at)
            for link, own_rail in self._out[at]:
                if link.target not in done:
                    count += 1
                    narrow, first = max(width, -link.bandwidth), rail if hops else own_rail
                    label = (relays, narrow, hops + 1, count, link.target, via, first, latency + link.latency)
                    heapq.heappush(queue, label)
        return found


def grow(
    routes: Routes, share: Fraction, root: str, *, up: Mapping[str, str] | None, down: Mapping[str, str] | None
) -> Tree:
    """A tree from who hands its sum to whom (`up`) and who gets the result from whom (`down`).

    Both map every node but the root to its parent; None leaves that part out. Children are added in the order of `up`.
    """
    reduce = [routes.edge(child, parent) for child, parent in reversed(_outwards(root, up or {}, backwards=True))]
    broadcast = [routes.edge(parent, child) for child, parent in _outwards(root, down or {})]
    return Tree(share, root, tuple(reduce), tuple(broadcast))


def _outwards(root: str, parents: Mapping[str, str], *, backwards: bool = False) -> list[tuple[str, str]]:
    """(child, parent), parents before their children, siblings in order or backwards."""
    children: dict[str, list[str]] = {}
    for child, parent in parents.items():
        children.setdefault(parent, []).append(child)
    order: list[tuple[str, str]] = []
    level = [root]
    while level:
        below = []
        for parent in level:
            siblings = children.get(parent, [])
            for child in reversed(siblings) if backwards else siblings:
                order.append((child, parent))
                below.append(child)
        level = below
    return order


def parts(operation: Operation) -> tuple[bool, bool]:
    """Whether an operation adds up, and whether it hands out."""
    return operation in ("all_reduce", "reduce_scatter", "reduce"), operation in (
        "all_reduce",
        "all_gather",
        "broadcast",
    )


def pick_root(cluster: Cluster, root: str | None) -> str:
    """The root asked for, or the first rank.

    Raises:
        UserError: it is no rank.
    """
    if root is None:
        return members_of(cluster)[0]
    if root not in cluster.ranks:
        raise UserError(f"cluster {cluster.name} has no device or host {root}. It has {', '.join(cluster.ranks)}.")
    return root


def members_of(cluster: Cluster) -> tuple[str, ...]:
    """Raises:
    UserError: nobody is there.
    """
    if not cluster.ranks:
        raise UserError(f"cluster {cluster.name} has no device or host, so there is nothing to add up or hand out.")
    return cluster.ranks


def refuse(algorithm: str, operation: Operation, instead: Sequence[str]) -> UserError:
    """The error for an operation that an algorithm has no schedule for."""
    return UserError(f"{algorithm} has no schedule for {operation}. Use {' or '.join(instead)}.")
