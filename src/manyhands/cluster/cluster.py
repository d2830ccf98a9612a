"""What there is to compute on: machines, devices and the directed links between them.

A `Cluster` is a directed graph. Its nodes are devices and hosts, which hold data and compute; switches, which only
pass on what they are given; and helpers, hosts without data of their own that may add and copy for the others. A
link carries up to `bandwidth` bytes/s in one direction; two links between the same nodes differ in their `rail`.

A cluster is measured, read from a file, or a preset; it knows nothing of torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from manyhands.errors import UserError

Kind = Literal["device", "host", "switch", "helper"]


@dataclass(frozen=True, kw_only=True)
class Node:
    """A place in a cluster."""

    name: str
    kind: Kind
    host: str = ""
    """The machine it is part of; nodes of one machine may share memory. Empty: a machine of its own."""
    adds: bool | None = None
    """Whether it can add up what passes through. None: everything but a switch can."""
    copies: bool | None = None
    """Whether it can send what it received to several others. None: everything but a switch can."""

    @property
    def holds_data(self) -> bool:
        """Whether it can be a rank: contribute to a collective and want its result."""
        return self.kind in ("device", "host")

    @property
    def can_add(self) -> bool:
        return self.kind != "switch" if self.adds is None else self.adds

    @property
    def can_copy(self) -> bool:
        return self.kind != "switch" if self.copies is None else self.copies


@dataclass(frozen=True, kw_only=True)
class Link:
    """A directed link."""

    source: str
    target: str
    bandwidth: int
    """Bytes/s, an integer so that plans can be exact."""
    latency: float = 0.0
    """Seconds until the first byte arrives."""
    kind: str = ""
    """What it is made of: nvlink, pcie, ethernet, memory, ..."""
    rail: str = ""
    """Tells apart parallel links between the same two nodes, for example by interface."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Nodes and links.

    Raises:
        UserError: names that occur twice or are missing, capacities that are not positive.
    """

    name: str
    nodes: tuple[Node, ...]
    links: tuple[Link, ...]

    def __post_init__(self) -> None:
        names = [node.name for node in self.nodes]
        if len(set(names)) < len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise UserError(f"cluster {self.name}: node {twice[0]} occurs twice. Give every node a name of its own.")
        seen: set[tuple[str, str, str]] = set()
        for link in self.links:
            where = f"cluster {self.name}: link {link.source} -> {link.target}"
            for end in (link.source, link.target):
                if end not in self.by_name:
                    raise UserError(f"{where}: there is no node {end}. Nodes: {', '.join(names)}.")
            if link.source == link.target:
                raise UserError(f"{where} leads from a node to itself. Remove it.")
            if link.bandwidth <= 0 or link.latency < 0:
                raise UserError(f"{where}: bandwidth must be positive (bytes/s), latency must not be negative (s).")
            key = (link.source, link.target, link.rail)
            if key in seen:
                raise UserError(f"{where} occurs twice. Add up the bandwidths, or give each its own rail.")
            seen.add(key)

    @cached_property
    def by_name(self) -> dict[str, Node]:
        return {node.name: node for node in self.nodes}

    @property
    def ranks(self) -> tuple[str, ...]:
        """The nodes that hold data, in order."""
        return tuple(node.name for node in self.nodes if node.holds_data)

    @property
    def helpers(self) -> tuple[str, ...]:
        return tuple(node.name for node in self.nodes if node.kind == "helper")

    @cached_property
    def capacity(self) -> dict[tuple[str, str], int]:
        """Bytes/s from a node to another, over all rails together."""
        total: dict[tuple[str, str], int] = {}
        for link in self.links:
            total[link.source, link.target] = total.get((link.source, link.target), 0) + link.bandwidth
        return total

    def subset(self, ranks: Iterable[str], *, kinds: Iterable[str] | None = None) -> Cluster:
        """The cluster with only these data-holding nodes, in this order, and only links of these kinds.

        Other nodes stay if a path between two of the ranks can lead through them, or if they can add.

        Raises:
            UserError: there is no such node.
        """
        wanted = list(ranks)
        for name in wanted:
            if name not in self.by_name or not self.by_name[name].holds_data:
                raise UserError(f"cluster {self.name} has no device or host {name}. It has {', '.join(self.ranks)}.")
        allowed = None if kinds is None else set(kinds)
        kept = set(wanted) | {node.name for node in self.nodes if not node.holds_data}
        links = [
            link
            for link in self.links
            if link.source in kept and link.target in kept and (allowed is None or link.kind in allowed)
        ]
        while True:  # a forwarding node that leads nowhere, or only back, is of no use
            before: dict[str, set[str]] = {name: set() for name in kept}
            after: dict[str, set[str]] = {name: set() for name in kept}
            for link in links:
                after[link.source].add(link.target)
                before[link.target].add(link.source)
            useless = {
                name
                for name in kept - set(wanted)
                if not before[name]
                or not after[name]
                or (len(before[name] | after[name]) < 2 and not self.by_name[name].can_add)
            }
            if not useless:
                break
            kept -= useless
            links = [link for link in links if link.source in kept and link.target in kept]
        others = [node for node in self.nodes if node.name in kept and node.name not in set(wanted)]
        return replace(self, nodes=(*(self.by_name[name] for name in wanted), *others), links=tuple(links))

    def scaled(self, factor: float) -> Cluster:
        """The cluster with all bandwidths multiplied."""
        links = tuple(replace(link, bandwidth=max(1, round(link.bandwidth * factor))) for link in self.links)
        return replace(self, links=links)

    def apart(self) -> Cluster:
        """The cluster with every node a machine of its own, so that nothing shares memory."""
        return replace(self, nodes=tuple(replace(node, host="") for node in self.nodes))
