"""What has to be plugged in where, so that one machine looks like a cluster: names, addresses and routes, as data.

Every machine of the cluster becomes a place, and so does every switch that is not part of one. A cable joins the two
places of a link and its mirror image; links inside a machine need none. Places that a frame reaches without being
routed form a segment with a subnet of its own (10.x.y.0/24, in the order of the links): the ends of a direct
cable, or all that hang on joined switches. Every machine also has one address, 10.0.x.y/32, that all others reach over
the fewest hops, and among those over the widest links.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from manyhands.cluster import Cluster, Node
from manyhands.errors import UserError

MAX_SUBNET = 250
"""Hosts in a subnet, and machines for each third byte of their own addresses."""
HOST_DEVICE = "host"
"""The interface that has a machine's own address."""
_INTERFACE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,14}")


@dataclass(frozen=True, kw_only=True)
class End:
    """One end of a cable, and where it is plugged in."""

    node: str
    place: str
    """The machine or switch that the cable is plugged into."""
    interface: str
    address: str = ""
    """The interface's address; empty at a switch."""
    bandwidth: int
    """Bytes/s that leave at this end."""


@dataclass(frozen=True, kw_only=True)
class Cable:
    """A link and its mirror image."""

    ends: tuple[End, End]
    rail: str

    def end_at(self, node: str) -> End:
        return self.ends[0] if self.ends[0].node == node else self.ends[1]

    def directions(self) -> Iterator[tuple[End, End]]:
        yield self.ends
        yield self.ends[::-1]


@dataclass(frozen=True, kw_only=True)
class Route:
    """How a machine reaches the own address of another."""

    destination: str
    via: str
    interface: str


@dataclass(frozen=True, kw_only=True)
class Wiring:
    """A cluster, ready to be plugged in."""

    hosts: dict[str, str]
    """The own address of every machine."""
    switches: tuple[str, ...]
    cables: tuple[Cable, ...]
    routes: dict[str, tuple[Route, ...]]
    """The routes of each machine."""

    @property
    def places(self) -> tuple[str, ...]:
        return (*self.hosts, *self.switches)

    def ends_at(self, place: str) -> list[tuple[Cable, End]]:
        return [(cable, end) for cable in self.cables for end in cable.ends if end.place == place]


def place_of(node: Node) -> str:
    """The machine a node is part of, or itself."""
    return node.host or node.name


def wire(cluster: Cluster) -> Wiring:
    """Plan the emulation of a cluster.

    Raises:
        UserError: the cluster has links in one direction only, switches in a circle, or is too large.
    """
    machines = list(dict.fromkeys(place_of(n) for n in cluster.nodes if n.kind != "switch" or n.host))
    switches = [node.name for node in cluster.nodes if node.kind == "switch" and not node.host]
    hosts = {name: f"10.0.{i // MAX_SUBNET}.{i % MAX_SUBNET + 1}" for i, name in enumerate(machines)}
    cables = _with_addresses(cluster, _cables(cluster, set(machines)), set(switches))
    routes = _routes(hosts, cables, set(switches))
    return Wiring(hosts=hosts, switches=tuple(switches), cables=tuple(cables), routes=routes)


def _cables(cluster: Cluster, machines: set[str]) -> list[Cable]:
    """The cables, with interfaces named: after the rail where there is one, else eth0, eth1, ..."""
    links = {(link.source, link.target, link.rail): link for link in cluster.links}
    taken: dict[str, set[str]] = {}
    cables: dict[tuple[frozenset[str], str], Cable] = {}
    for (source, target, rail), link in links.items():
        nodes = (cluster.by_name[source], cluster.by_name[target])
        key = (frozenset((source, target)), rail)
        if key in cables or place_of(nodes[0]) == place_of(nodes[1]):
            continue
        back = links.get((target, source, rail))
        if back is None:
            raise UserError(
                f"cluster {cluster.name}: link {source} -> {target} has no counterpart. The lab emulates cables, which "
                "lead both ways: add the other direction, if need be with a low bandwidth."
            )
        ends = []
        for node, out in zip(nodes, (link, back), strict=True):
            place = place_of(node)
            name = _interface(rail, place in machines, taken.setdefault(place, {"lo", "all", "default", HOST_DEVICE}))
            ends.append(End(node=node.name, place=place, interface=name, bandwidth=out.bandwidth))
        cables[key] = Cable(ends=(ends[0], ends[1]), rail=rail)
    return list(cables.values())


def _interface(rail: str, is_machine: bool, taken: set[str]) -> str:
    stem, name = ("eth" if is_machine else "port"), rail
    if not is_machine or not _INTERFACE_NAME.fullmatch(rail) or rail in taken:
        name = next(name for name in (f"{stem}{i}" for i in range(len(taken) + 1)) if name not in taken)
    taken.add(name)
    return name


def _with_addresses(cluster: Cluster, cables: list[Cable], switches: set[str]) -> list[Cable]:
    """Number the segments and the ends in them."""
    joined = _joined_switches(cluster, cables, switches)
    segments: dict[object, int] = {}
    population: dict[int, int] = {}
    numbered = []
    for cable in cables:
        switch = next((end.place for end in cable.ends if end.place in switches), None)
        segment = segments.setdefault(cable if switch is None else joined[switch], len(segments))
        ends = []
        for end in cable.ends:
            if end.place not in switches:
                number = population[segment] = population.get(segment, 0) + 1
                end = replace(end, address=f"10.{1 + segment // 256}.{segment % 256}.{number}")
            ends.append(end)
        numbered.append(replace(cable, ends=(ends[0], ends[1])))
    if max(population.values(), default=0) > MAX_SUBNET or len(segments) > MAX_SUBNET * 256:
        raise UserError(f"cluster {cluster.name} is too large for the lab: over {MAX_SUBNET} interfaces on a switch.")
    return numbered


def _joined_switches(cluster: Cluster, cables: list[Cable], switches: set[str]) -> dict[str, str]:
    """One switch to stand for all that are joined."""
    joined = {switch: switch for switch in switches}
    for cable in cables:
        a, b = (end.place for end in cable.ends)
        if a in switches and b in switches:
            if joined[a] == joined[b]:
                raise UserError(
                    f"cluster {cluster.name}: the link {a} - {b} closes a circle of switches, in which frames would go "
                    "round for ever. Take a link out, or make them one switch."
                )
            old, new = joined[a], joined[b]
            joined = {switch: new if one == old else one for switch, one in joined.items()}
    return joined


def _routes(hosts: dict[str, str], cables: list[Cable], switches: set[str]) -> dict[str, tuple[Route, ...]]:
    """The routes of every machine, breadth first from every destination: the widest of the shortest ways."""
    ends: dict[str, list[End]] = {}
    for end in (end for cable in cables for end in cable.ends if end.address):
        ends.setdefault(end.address.rpartition(".")[0], []).append(end)
    hops = {
        host: [(own, far) for segment in ends.values() for own in segment if own.place == host for far in segment]
        for host in hosts
    }
    routes: dict[str, list[Route]] = {host: [] for host in hosts}
    for destination, address in hosts.items():
        width: dict[str, int] = {destination: 1 << 62}
        front = [destination]
        while front:
            found: dict[str, tuple[int, End, End]] = {}
            for host in (host for host in hosts if host not in width):
                ways = [(min(own.bandwidth, far.bandwidth, width[far.place]), own, far)
                        for own, far in hops[host] if far.place in front]  # fmt: skip
                if ways:
                    found[host] = max(ways, key=lambda way: way[0])
            for host, (wide, own, far) in found.items():
                width[host] = wide
                routes[host].append(Route(destination=address, via=far.address, interface=own.interface))
            front = list(found)
    return {host: tuple(found) for host, found in routes.items()}
