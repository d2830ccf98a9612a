"""Packings over explicit trees, where Edmonds' theorem does not hold: with helpers, and with canonical sums.

Problem: where nodes without data may add and copy (helpers, in-network reduction), packing trees is a Steiner
problem, and cut bounds are only what network coding could reach. Where sums have a fixed order, few trees are allowed.

Idea: column generation. The linear program over the trees known so far prices the links; the cheapest tree for those
prices comes in if it improves the program. When none does, the program is optimal over *all* trees of the kind, and
its prices p prove it: sum(c * p) / cost of the cheapest tree, evaluated in exact fractions, bounds every packing.

Cost: some tens of rounds, each one LP and a cheapest tree per root; rounds are capped for large clusters, where the
certificate then states a bound above the rate. Source: Gilmore, Gomory 1961; BytePS (OSDI 2020) for what helpers win.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from fractions import Fraction

from manyhands.collective.forest import Operation
from manyhands.collective.packing.canonical import CanonicalTrees, halving_tree
from manyhands.collective.packing.columns import Columns, Mix, exact_weights
from manyhands.collective.packing.entries import Entry
from manyhands.collective.packing.few import few_trees, proposals
from manyhands.collective.packing.hierarchy import pack_hierarchical
from manyhands.collective.packing.network import Arc, Network
from manyhands.collective.packing.optimum import optimum
from manyhands.collective.packing.pricing import Pricing
from manyhands.collective.packing.shortest import distances
from manyhands.collective.packing.spanning import Packing, pack_spanning, shares_of

_WORTH = 1e-9
_LEAST_ROUNDS = 5
_WORK = 1_000_000
"""Rounds times what a round costs (ranks**2 * links): some 300 rounds for 8 GPUs, 16 for a mesh of 16 hosts."""
_MEDIUM = 32
"""Ranks from which boxes are tried first, since that takes milliseconds and often is optimal."""
_LARGE = 160
"""Ranks up to which a cluster is else packed as a whole, at some 10 s for 128."""


def pack_any(network: Network, operation: Operation, root: int | None) -> Packing:
    """The best packing of trees of any kind: exact by Edmonds' theorem, explicit trees where helpers can help."""
    plain = _plain(network, operation, root)
    adds, copies = operation not in ("all_gather", "broadcast"), operation not in ("reduce_scatter", "reduce")
    if not plain.rate or not ((adds and network.adders) or (copies and network.copiers)):
        return plain
    helped = pack_explicit(network, operation, root, pricing_of(network, operation, root, False), plain.weights)
    return plain if helped is None else helped


def _plain(network: Network, operation: Operation, root: int | None) -> Packing:
    """The best packing without helpers; of a very large cluster a good one."""
    if network.ranks > _MEDIUM:
        composed = pack_hierarchical(network, operation, root)
        if composed is not None and (composed.rate == composed.bound or network.ranks > _LARGE):
            return composed
    return pack_spanning(network, operation, root)


def pack_few(
    network: Network, operation: Operation, root: int | None, packing: Packing, most: int, *, canonical: bool
) -> Packing:
    """Reduce a packing to at most so many trees of its kind, at little cost in rate."""
    undirected = operation == "all_reduce" and network.is_duplex and not network.adders | network.copiers
    pricing = None if undirected and not canonical else pricing_of(network, operation, root, canonical)
    shares = shares_of(network, operation, root)
    weights = few_trees(network, packing.weights, shares, most, proposals(network, pricing))
    return packing._replace(weights=weights)


def pricing_of(network: Network, operation: Operation, root: int | None, canonical: bool) -> Pricing:
    """The trees that an operation may use."""
    if root is not None:
        roots = [root]
    else:
        roots = list(range(network.ranks))
        if operation == "all_reduce":
            roots += sorted(network.adders & network.copiers)
    return Pricing(network, operation, roots, CanonicalTrees(network, roots) if canonical else None)


def pack_explicit(
    network: Network,
    operation: Operation,
    root: int | None,
    pricing: Pricing,
    start: Iterable[Entry] = (),
    ceiling: Packing | None = None,
) -> Packing | None:
    """The best packing of trees of a kind. None: there is no such tree, or not for every root that needs one.

    Args:
        start: trees to begin with.
        ceiling: a packing of a wider kind, whose bound ends the search when it is met.
    """
    shares = shares_of(network, operation, root)
    columns = Columns(network, shares)
    offers = pricing.offers({arc: 1.0 / amount for arc, amount in network.capacity.items()})
    if not offers or (shares is not None and {offer.entry.root for offer in offers} != set(shares)):
        return None
    for entry in (*start, *(offer.entry for offer in offers), *_known(network, pricing)):
        columns.add(entry)
    mix = columns.mix()
    limit = float(ceiling.bound) * (1 - _WORTH) if ceiling is not None else math.inf
    for _ in range(max(_LEAST_ROUNDS, _WORK // (network.ranks**2 * len(network.capacity)))):
        if mix.rate >= limit:
            break
        wanted = [
            offer.entry
            for offer in pricing.offers(mix.prices)
            if offer.price < mix.premiums.get(offer.entry.root, 1.0) * (1 - _WORTH)
        ]
        if not sum(columns.add(entry) for entry in wanted):
            break
        mix = columns.mix()
    weights = exact_weights(network, columns.entries, mix.weights, shares)
    return _proved(network, mix, pricing, shares, Packing(weights, Fraction(0), ()), ceiling)


def _known(network: Network, pricing: Pricing) -> list[Entry]:
    """Stars and recursive halving: of every kind of tree there is, and often enough by themselves."""
    links = distances(dict.fromkeys(network.capacity, 1.0), {*range(network.ranks), *pricing.roots})
    trees = CanonicalTrees(network, pricing.roots)
    shapes = [(root, [(rank, root) for rank in range(network.ranks) if rank != root]) for root in pricing.roots]
    shapes += [(root, halving_tree(trees, root)) for root in pricing.roots if root < network.ranks]
    entries = []
    for root, arcs in shapes:
        if all(arc in links and arc[::-1] in links for arc in arcs):
            up = tuple(links[arc][1] for arc in arcs) if pricing.adds else ()
            down = tuple(links[v, u][1] for u, v in reversed(arcs)) if pricing.copies else ()
            entries.append(Entry(root, up, down))
    return entries


def _proved(
    network: Network,
    mix: Mix,
    pricing: Pricing,
    shares: Mapping[int, Fraction] | None,
    packing: Packing,
    ceiling: Packing | None,
) -> Packing:
    """Give a packing the least bound that is known: of the wider kind, of the prices, or of what coding could reach."""
    if ceiling is not None and packing.rate == ceiling.bound:
        return packing._replace(bound=ceiling.bound, cuts=ceiling.cuts, links=ceiling.links)
    if not pricing.is_complete:
        coded = optimum(network, shares, relays=True)
        return packing._replace(bound=coded.bound, cuts=tuple((cut.layer, cut.inside) for cut, _ in coded.cuts))
    bound, links = _bound(network, mix, pricing, shares)
    if ceiling is not None and ceiling.bound < bound:
        return packing._replace(bound=ceiling.bound, cuts=ceiling.cuts, links=ceiling.links)
    return packing._replace(bound=bound, links=links)


def _bound(
    network: Network, mix: Mix, pricing: Pricing, shares: Mapping[int, Fraction] | None
) -> tuple[Fraction, tuple[Arc, ...]]:
    """What the prices prove, and the links that have one."""
    largest = max(mix.prices.values())
    prices = {arc: Fraction(price / largest).limit_denominator(1000) for arc, price in mix.prices.items()}
    value = sum((network.capacity[arc] * price for arc, price in prices.items()), Fraction(0))
    offers = pricing.offers(prices)
    if shares is None:
        cheapest = min(Fraction(offer.price) for offer in offers)
    else:
        cheapest = sum((Fraction(offer.price) * shares[offer.entry.root] for offer in offers), Fraction(0))
    if not cheapest:
        return Fraction(sum(network.capacity.values())), ()
    return value / cheapest, tuple(arc for arc, price in prices.items() if price)
