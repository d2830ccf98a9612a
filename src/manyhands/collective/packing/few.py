"""At most K trees, at little cost in rate.

Problem: an optimal packing may use as many trees as there are links; each costs buffers, channels and latency. The
fewest trees for a rate are hard to find; good ones are not.

Idea: give up the lightest tree of the optimum until K are left, then improve: the prices of the best weights of
these K name the tree that is missed most; take it in, and put out whichever of the K + 1 costs least. Stop when no
exchange helps. Every step is one small linear program over explicit trees.

Cost: K + 2 programs of K columns for an exchange; some ten exchanges. On all NVLink-connected subsets of a DGX-1V eight
trees keep at least 0.95 of the optimum (docs/packing.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

from manyhands.collective.packing.columns import Columns, Mix, exact_weights
from manyhands.collective.packing.entries import Entry, Weights, centred
from manyhands.collective.packing.network import Network
from manyhands.collective.packing.pricing import Pricing, cheapest_mirrored
from manyhands.errors import UserError

_EXCHANGES = 40
_ENOUGH = 0.999

Propose = Callable[[Mix], list[Entry]]


def proposals(network: Network, pricing: Pricing | None) -> Propose:
    """The trees that a mix misses, the most missed first. Without `pricing`: undirected ones, there and back."""
    if pricing is None:

        def undirected(mix: Mix) -> list[Entry]:
            paths = cheapest_mirrored(network, mix.prices)
            return [] if paths is None else [centred(paths)]

        return undirected

    def directed(mix: Mix) -> list[Entry]:
        offers = pricing.offers(mix.prices)
        return [offer.entry for offer in sorted(offers, key=lambda o: o.price - mix.premiums.get(o.entry.root, 0.0))][
            :3
        ]

    return directed


def few_trees(
    network: Network, weights: Weights, shares: Mapping[int, Fraction] | None, most: int, propose: Propose
) -> Weights:
    """At most so many trees, with the best weights for them.

    Raises:
        UserError: fewer trees than roots that need one.
    """
    if shares is not None and most < len(shares):
        raise UserError(
            f"max_trees={most} is too few: each of {len(shares)} roots needs a tree. Give at least {len(shares)}."
        )
    if most < 1:
        raise UserError(f"max_trees={most} leaves no tree. Give at least 1.")
    if len(weights) <= most:
        return weights
    columns = Columns(network, shares)
    for entry in weights:
        columns.add(entry)
    target = float(sum(weights.values())) * _ENOUGH
    chosen, mix = _shortened(columns, list(range(len(columns.entries))), most)
    for _ in range(_EXCHANGES):
        if mix.rate >= target:
            break
        better = _exchanged(columns, chosen, mix, propose)
        if better is None:
            break
        chosen, mix = better
    return exact_weights(network, [columns.entries[index] for index in chosen], mix.weights, shares)


def _shortened(columns: Columns, chosen: list[int], most: int) -> tuple[list[int], Mix]:
    mix = columns.mix(chosen)
    while len(chosen) > most:
        spare = [place for place in range(len(chosen)) if _can_go(columns, chosen, place)]
        lightest = min(spare, key=lambda place: mix.weights[place])
        del chosen[lightest]
        mix = columns.mix(chosen)
    return chosen, mix


def _exchanged(columns: Columns, chosen: list[int], mix: Mix, propose: Propose) -> tuple[list[int], Mix] | None:
    """A better choice of as many trees, by taking one in; None if there is none."""
    for entry in propose(mix):
        if not columns.add(entry) and columns.entries.index(entry) in chosen:
            continue
        more = [*chosen, columns.entries.index(entry)]
        tries = []
        for place in range(len(chosen)):
            if _can_go(columns, more, place):
                rest = [*more[:place], *more[place + 1 :]]
                tries.append((columns.mix(rest), rest))
        found, rest = max(tries, key=lambda item: item[0].rate)
        if found.rate > mix.rate * (1 + 1e-9):
            return rest, found
    return None


def _can_go(columns: Columns, chosen: Sequence[int], place: int) -> bool:
    """Whether its root keeps another tree, where roots have shares."""
    if columns.shares is None:
        return True
    root = columns.entries[chosen[place]].root
    return sum(columns.entries[index].root == root for index in chosen) > 1
