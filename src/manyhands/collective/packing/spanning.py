"""The exact packing where nothing but ranks adds or copies: optimum, splitting, Edmonds' trees, one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import NamedTuple

from manyhands.collective.forest import Operation
from manyhands.collective.packing.arborescences import pack_arborescences
from manyhands.collective.packing.entries import Entry, Weights, backwards, broadcasts, mirrored, paired
from manyhands.collective.packing.network import Arc, Network
from manyhands.collective.packing.optimum import Optimum, optimum
from manyhands.collective.packing.splitting import split_off


class Packing(NamedTuple):
    """Trees with weights in units of the network, and what bounds them."""

    weights: Weights
    bound: Fraction
    cuts: tuple[tuple[int, frozenset[int]], ...]
    """The sets of nodes that bind the rate, each with its layer, as `certificate.describe` takes them."""
    links: tuple[Arc, ...] = ()
    """The links that bind the rate, where it is not sets of nodes that do."""

    @property
    def rate(self) -> Fraction:
        return sum(self.weights.values(), Fraction(0))


def pack_spanning(network: Network, operation: Operation, root: int | None) -> Packing:
    """The throughput-optimal trees for one operation; helpers only forward."""
    shares = shares_of(network, operation, root)
    if operation in ("reduce", "reduce_scatter"):
        return turned(pack_broadcasts(network.reversed(), shares))
    if operation != "all_reduce":
        return pack_broadcasts(network, shares)
    if network.is_duplex:
        packing = pack_broadcasts(network, None)
        return packing._replace(weights=mirrored(packing.weights))
    best = optimum(network, None)
    down, up = (_trees(network, best.roots, layer) for layer in best.layers)
    pairs = paired({backwards(entry): weight for entry, weight in up.items()}, down)
    return _packing(best, pairs)


def pack_broadcasts(network: Network, shares: Mapping[int, Fraction] | None, *, both_ways: bool = False) -> Packing:
    """The best trees to hand out.

    Without shares, or with `both_ways`, they take the same way back in; the links have to be duplex.
    """
    best = optimum(network, shares, mirrored=both_ways)
    return _packing(best, _trees(network, best.roots, best.layers[0]))


def turned(packing: Packing) -> Packing:
    """A packing of the reversed network as one that adds up."""
    weights = {backwards(entry): weight for entry, weight in packing.weights.items()}
    return packing._replace(weights=weights, cuts=tuple((1, inside) for _, inside in packing.cuts))


def _packing(best: Optimum, entries: Mapping[Entry, int]) -> Packing:
    weights = {entry: Fraction(weight, best.scale) for entry, weight in entries.items()}
    return Packing(weights, best.bound, tuple((cut.layer, cut.inside) for cut, _ in best.cuts))


def shares_of(network: Network, operation: Operation, root: int | None) -> dict[int, Fraction] | None:
    """What each rank is root of; None where the packing may choose."""
    if operation == "all_reduce":
        return None
    if operation in ("broadcast", "reduce"):
        assert root is not None
        return {root: Fraction(1)}
    return {rank: Fraction(1, network.ranks) for rank in range(network.ranks)}


def _trees(network: Network, roots: dict[int, int], layer: dict[Arc, int]) -> dict[Entry, int]:
    routes = split_off(network.size, roots, layer, network.ranks, network.forwarders)
    batches = pack_arborescences(network.ranks, roots, routes.capacity())
    return broadcasts(batches, routes)
