"""The exact packing where nothing but ranks adds or copies: optimum, splitting, Edmonds' trees, one after the other."""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

from manyhands.collective.forest import Operation
from manyhands.collective.packing.arborescences import pack_arborescences
from manyhands.collective.packing.entries import Weights, backwards, broadcasts, mirrored, paired
from manyhands.collective.packing.network import Arc, Network
from manyhands.collective.packing.optimum import optimum
from manyhands.collective.packing.splitting import split_off


class Packing(NamedTuple):
    """Trees with weights in units of the network, and what bounds them."""

    weights: Weights
    bound: Fraction
    cuts: tuple[tuple[int, frozenset[int]], ...]
    """Layer and set, as `certificate.describe` takes them."""
    links: tuple[Arc, ...] = ()
    """What binds, where it is not sets but links."""

    @property
    def rate(self) -> Fraction:
        return sum(self.weights.values(), Fraction(0))


def pack_spanning(network: Network, operation: Operation, root: int | None) -> Packing:
    """The throughput-optimal trees for one operation; helpers only forward."""
    adds_up = operation in ("reduce", "reduce_scatter")
    directed = network.reversed() if adds_up else network
    best = optimum(directed, shares_of(network, operation, root))
    layers = [_trees(network, best.roots, layer) for layer in best.layers]
    if operation != "all_reduce":
        entries = {backwards(entry): weight for entry, weight in layers[0].items()} if adds_up else layers[0]
    elif len(layers) == 1:
        entries = mirrored(layers[0])
    else:
        entries = paired({backwards(entry): weight for entry, weight in layers[1].items()}, layers[0])
    weights = {entry: Fraction(weight, best.scale) for entry, weight in entries.items()}
    cuts = tuple((1 if adds_up else cut.layer, cut.inside) for cut, _ in best.cuts)
    return Packing(weights, best.bound, cuts)


def shares_of(network: Network, operation: Operation, root: int | None) -> dict[int, Fraction] | None:
    """What each rank is root of; None where the packing may choose."""
    if operation == "all_reduce":
        return None
    if operation in ("broadcast", "reduce"):
        assert root is not None
        return {root: Fraction(1)}
    return {rank: Fraction(1, network.ranks) for rank in range(network.ranks)}


def _trees(network: Network, roots: dict[int, int], layer: dict[Arc, int]) -> dict:
    routes = split_off(network.size, roots, layer, network.ranks, network.forwarders)
    batches = pack_arborescences(network.ranks, roots, routes.capacity())
    return broadcasts(batches, routes)
