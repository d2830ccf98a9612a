"""Why a packing is as fast as it is: its rate, an upper bound, and in words the links that bind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from manyhands.cluster import Cluster
from manyhands.collective.forest import Operation
from manyhands.collective.packing.flow import Flows
from manyhands.collective.packing.network import Network
from manyhands.collective.packing.spanning import Packing

_UNITS = (("GB/s", 10**9), ("MB/s", 10**6), ("kB/s", 10**3))
_MOST_NAMED = 8


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What a packing promises, and the proof that no forest does better."""

    rate: Fraction
    """Bytes/s of the data: M bytes take M / rate seconds once chunks stream."""
    bound: Fraction
    """A rate that no forest of this kind exceeds on this cluster."""
    cut: str
    """What binds the rate, in words."""
    exact: bool
    """Whether rate = bound, in exact fractions."""
    price: Fraction | None = None
    """What sums in canonical order cost: the rate with them over the rate without that restriction."""


def human(rate: Fraction | int) -> str:
    """Bytes/s for people."""
    for name, size in _UNITS:
        if rate >= size:
            return f"{float(rate / Fraction(size)):.4g} {name}"
    return f"{float(rate):.4g} B/s"


def binding(cluster: Cluster, network: Network, operation: Operation, packing: Packing) -> str:
    """What bounds a packing, in words."""
    if not packing.links:
        return describe(cluster, network, packing.cuts, mirrored=operation == "all_reduce" and network.is_duplex)
    links = [
        f"{network.names[u]} -> {network.names[v]} ({human(network.capacity[u, v] * network.unit)})"
        for u, v in packing.links
    ]
    return f"links {_listed(links, ', ')}"


def describe(cluster: Cluster, network: Network, cuts: Sequence[tuple[int, frozenset[int]]], *, mirrored: bool) -> str:
    """The sets that prove a bound, in words.

    Args:
        cuts: layer (0: what has to come into the set, 1: what has to leave it) and set.
        mirrored: every link is as fast backwards as forwards, and both layers share it.
    """
    families = list(dict.fromkeys((layer, _ranks(network, inside)) for layer, inside in cuts))
    covered = sorted(rank for _, inside in families for rank in inside)
    kind = _kind(cluster)
    if mirrored and len(families) > 1 and covered == list(range(network.ranks)):
        crossing = Fraction(sum(_width(network, layer, inside) for layer, inside in families), 2)
        parts = [_names(network, inside) for _, inside in sorted(families, key=lambda family: min(family[1]))]
        return f"{kind} {_listed(parts, ' | ')}: {human(crossing)} between them"
    words = [
        f"{human(_width(network, layer, inside))} {'out of' if layer else 'into'} {_names(network, inside)}"
        for layer, inside in families
    ]
    return f"{kind}: {_listed(words, ', ')}"


def _ranks(network: Network, nodes: frozenset[int]) -> frozenset[int]:
    return frozenset(node for node in nodes if node < network.ranks)


def _width(network: Network, layer: int, inside: frozenset[int]) -> int:
    """Bytes/s from the ranks outside to those inside (layer 1: the other way), through all switches."""
    source, target = network.size, network.size + 1
    capacity = dict((network.reversed() if layer else network).capacity)
    endless = sum(capacity.values())
    for rank in range(network.ranks):
        capacity[(rank, target) if rank in inside else (source, rank)] = endless
    return Flows(network.size + 2, capacity).value(source, target) * network.unit


def _kind(cluster: Cluster) -> str:
    kinds = {node.kind for node in cluster.nodes if node.holds_data}
    return f"{kinds.pop()}s" if len(kinds) == 1 else "nodes"


def _names(network: Network, inside: frozenset[int]) -> str:
    return "{" + _listed([network.names[rank] for rank in sorted(inside)], ",") + "}"


def _listed(words: Sequence[str], between: str) -> str:
    if len(words) > _MOST_NAMED:
        words = [*words[: _MOST_NAMED - 1], f"... {len(words) - _MOST_NAMED + 1} more"]
    return between.join(words)
