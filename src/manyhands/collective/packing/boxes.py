"""A large network as boxes and what joins them.

A box is the ranks of one machine and the forwarders that lead nowhere else; what leads to several machines is outside.
The outer network has a node per box, with the links of all its ranks to the outside added up.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import reduce
from math import gcd

from manyhands.collective.packing.network import Arc, Capacity, Network


@dataclass(frozen=True)
class Boxes:
    """A network taken apart."""

    ranks: tuple[tuple[int, ...], ...]
    """The ranks of each box."""
    inside: tuple[Network, ...]
    """The network of each box; its node i is node `nodes[box][i]` of the whole."""
    nodes: tuple[tuple[int, ...], ...]
    outer: Network
    """The network of the boxes: box b is its node b, and its other nodes are those of `outside`, in order."""
    outside: tuple[int, ...]
    ports: dict[Arc, tuple[tuple[Arc, Fraction], ...]]
    """The links behind each link of the outer network, with their parts of its capacity."""


def boxes_of(network: Network) -> Boxes | None:
    """Take a network apart by machine. None: it is one machine, or every rank is one itself."""
    hosts = list(dict.fromkeys(network.hosts))
    if len(hosts) in (1, network.ranks):
        return None
    box = {rank: hosts.index(host) for rank, host in enumerate(network.hosts)}
    for component in _components(network):
        near = {box[end] for arc in network.capacity for end in arc if end < network.ranks and set(arc) & component}
        if len(near) == 1:
            box |= dict.fromkeys(component, near.pop())
    nodes = tuple(tuple(sorted(node for node in box if box[node] == index)) for index in range(len(hosts)))
    outside = tuple(node for node in network.forwarders if node not in box)
    outer, ports = _outer(network, box, len(hosts), outside)
    return Boxes(
        ranks=tuple(tuple(node for node in members if node < network.ranks) for members in nodes),
        inside=tuple(_inner(network, members) for members in nodes),
        nodes=nodes,
        outer=outer,
        outside=outside,
        ports=ports,
    )


def _components(network: Network) -> list[set[int]]:
    """Groups of forwarders that reach each other through forwarders."""
    near: dict[int, set[int]] = {node: set() for node in network.forwarders}
    for u, v in network.capacity:
        if u in near and v in near:
            near[u].add(v)
            near[v].add(u)
    components: list[set[int]] = []
    seen: set[int] = set()
    for start in near:
        if start in seen:
            continue
        component, queue = {start}, [start]
        for node in queue:
            queue += near[node] - component
            component |= near[node]
        seen |= component
        components.append(component)
    return components


def _inner(network: Network, members: Iterable[int]) -> Network:
    number = {node: index for index, node in enumerate(members)}
    capacity = {
        (number[u], number[v]): amount for (u, v), amount in network.capacity.items() if u in number and v in number
    }
    ranks = sum(node < network.ranks for node in number)
    return _small(network, tuple(network.names[node] for node in number), ranks, capacity)


def _outer(
    network: Network, box: dict[int, int], boxes: int, outside: tuple[int, ...]
) -> tuple[Network, dict[Arc, tuple[tuple[Arc, Fraction], ...]]]:
    number = box | {node: boxes + index for index, node in enumerate(outside)}
    behind: dict[Arc, list[tuple[Arc, int]]] = {}
    for (u, v), amount in network.capacity.items():
        if number[u] != number[v]:
            behind.setdefault((number[u], number[v]), []).append(((u, v), amount))
    capacity = {arc: sum(amount for _, amount in links) for arc, links in behind.items()}
    ports = {
        arc: tuple((link, Fraction(amount, capacity[arc])) for link, amount in links) for arc, links in behind.items()
    }
    names = (*map(str, range(boxes)), *(network.names[node] for node in outside))
    return _small(network, names, boxes, capacity), ports


def _small(network: Network, names: tuple[str, ...], ranks: int, capacity: Capacity) -> Network:
    """A network of these nodes and capacities, with a unit of its own."""
    unit = reduce(gcd, capacity.values(), 0) or 1
    return replace(
        network,
        names=names,
        ranks=ranks,
        adders=frozenset(),
        copiers=frozenset(),
        rails=frozenset(),
        hosts=(),
        capacity={arc: amount // unit for arc, amount in capacity.items()},
        unit=network.unit * unit,
    )
