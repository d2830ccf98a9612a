"""A cluster as integers: what all algorithms of packing work on.

Nodes are numbered, the ranks first and in order. Capacities are divided by their greatest common divisor. A pair
of nodes joined by several rails gets one forwarding node per rail, so that a path says which rail it takes; the
algorithms themselves know only simple graphs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from math import gcd

from manyhands.cluster import Cluster, Node
from manyhands.collective.forest import Edge
from manyhands.errors import UserError

Arc = tuple[int, int]
Capacity = dict[Arc, int]


@dataclass(frozen=True)
class Network:
    """A directed graph with integer capacities."""

    names: tuple[str, ...]
    """Names of the cluster's nodes; a rail's node has the name of the rail."""
    ranks: int
    """Nodes 0 ... ranks - 1 hold data."""
    adders: frozenset[int]
    """Nodes without data that can add up what passes through."""
    copiers: frozenset[int]
    """Nodes without data that can send what they receive to several others."""
    rails: frozenset[int]
    """The nodes that stand for a rail."""
    hosts: tuple[str, ...]
    """The machine of each rank; a rank that is in none is one itself."""
    capacity: Mapping[Arc, int]
    """The capacity of each link, in units of `unit` bytes/s."""
    unit: int

    @property
    def size(self) -> int:
        return len(self.names)

    @cached_property
    def forwarders(self) -> tuple[int, ...]:
        """Everything but the ranks: what may only pass on (helpers too, where they are not used as such)."""
        return tuple(range(self.ranks, self.size))

    @cached_property
    def is_duplex(self) -> bool:
        """Whether every link is as fast backwards as it is forwards."""
        return all(self.capacity.get((v, u)) == amount for (u, v), amount in self.capacity.items())

    def reversed(self) -> Network:
        """The network with every link turned round, so that handing out becomes adding up."""
        flipped = {(v, u): amount for (u, v), amount in self.capacity.items()}
        return replace(self, capacity=flipped, adders=self.copiers, copiers=self.adders)

    def edge(self, path: tuple[int, ...]) -> Edge:
        """A path through forwarders as a tree's edge."""
        via = tuple(self.names[node] for node in path[1:-1] if node not in self.rails)
        rail = self.names[path[1]] if path[1] in self.rails else ""
        return Edge(self.names[path[0]], self.names[path[-1]], via, rail)


def network_of(cluster: Cluster) -> Network:
    """Number the nodes of a cluster.

    Raises:
        UserError: fewer than two ranks, or a rank that cannot add or copy.
    """
    if len(cluster.ranks) < 2:
        raise UserError(f"cluster {cluster.name} has {len(cluster.ranks)} ranks; a collective needs at least two.")
    for node in cluster.nodes:
        if node.holds_data and not (node.can_add and node.can_copy):
            raise UserError(
                f"cluster {cluster.name}: {node.name} holds data but cannot add or cannot copy, so it can be no rank. "
                "Drop its adds/copies, or make it a switch."
            )
    nodes = sorted(cluster.nodes, key=lambda node: not node.holds_data)  # stable: ranks keep their order
    number = {node.name: index for index, node in enumerate(nodes)}
    names = [node.name for node in nodes]
    capacity: Capacity = {}
    rails: dict[tuple[int, int, str], int] = {}
    for link in cluster.links:
        u, v = number[link.source], number[link.target]
        if cluster.capacity[link.source, link.target] == link.bandwidth:
            capacity[u, v] = link.bandwidth
            continue
        key = (min(u, v), max(u, v), link.rail)
        if key not in rails:
            rails[key] = len(names)
            names.append(link.rail)
        capacity[u, rails[key]] = capacity[rails[key], v] = link.bandwidth
    return _scaled(cluster.nodes, number, names, frozenset(rails.values()), capacity, len(cluster.ranks))


def _scaled(
    nodes: tuple[Node, ...],
    number: dict[str, int],
    names: list[str],
    rails: frozenset[int],
    capacity: Capacity,
    ranks: int,
) -> Network:
    unit = reduce(gcd, capacity.values(), 0) or 1
    others = [node for node in nodes if not node.holds_data]
    return Network(
        names=tuple(names),
        ranks=ranks,
        adders=frozenset(number[node.name] for node in others if node.can_add),
        copiers=frozenset(number[node.name] for node in others if node.can_copy),
        rails=rails,
        hosts=tuple(node.host or node.name for node in nodes if node.holds_data),
        capacity={arc: amount // unit for arc, amount in capacity.items()},
        unit=unit,
    )
