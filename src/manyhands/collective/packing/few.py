"""At most K trees, at little cost in rate.

Problem: an optimal packing may use as many trees as there are links; each costs buffers, channels and latency. The
fewest trees for a rate are hard to find; good ones are not.

Idea: give up the lightest tree of the optimum until K are left, then improve: the prices of the best weights of
these K name the tree that is missed most; take it in, and put out whichever of the K + 1 costs least. The prices are
varied a little each time, and an exchange that is just as good is made too, so the search does not get stuck early.

Cost: some 40 exchanges of K programs of K columns, 1 to 5 ms each. On all NVLink-connected subsets of a DGX-1V eight
trees keep at least 0.95 of the optimum (docs/packing.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from random import Random

from manyhands.collective.packing.columns import Columns, Mix, exact_weights
from manyhands.collective.packing.entries import Entry, Weights, centred
from manyhands.collective.packing.network import Network
from manyhands.collective.packing.pricing import Pricing, cheapest_mirrored
from manyhands.errors import UserError

_PROGRAMS = 320
"""How many linear programs may be spent, at 1 to 5 ms each."""
_ENOUGH = 0.999
_SEARCHED = 64
"""Ranks up to which exchanges are tried; beyond, the cheapest tree takes seconds to find."""
_GONE = -1
_SHAKE = 0.3
"""The part of their average by which prices are varied."""

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
        missed = sorted(offers, key=lambda offer: offer.price - mix.premiums.get(offer.entry.root, 0.0))
        return [offer.entry for offer in missed[:3]]

    return directed


def few_trees(
    network: Network, weights: Weights, shares: Mapping[int, Fraction] | None, most: int, propose: Propose
) -> Weights:
    """Reduce a packing to at most so many trees, with the best weights for them.

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
    chosen, mix = best = _shortened(columns, list(range(len(columns.entries))), most)
    chance = Random(0)  # the same plan every time
    turn, spent = 0, 0
    while network.ranks <= _SEARCHED and spent < _PROGRAMS and best[1].rate < target:
        offers = propose(_shaken(mix, chance) if turn else mix)
        found = _exchanged(columns, chosen, offers)
        turn, spent = turn + 1, spent + 1 + len(offers) * len(chosen)
        if found is not None and found[1].rate >= mix.rate * (1 - 1e-9):  # as good: another place to go on from
            chosen, mix = found
        if mix.rate > best[1].rate:
            best = chosen, mix
    chosen, mix = best
    return exact_weights(network, [columns.entries[index] for index in chosen], mix.weights, shares)


def _shaken(mix: Mix, chance: Random) -> Mix:
    """The mix with prices a little different: where the best trees are many, others of them."""
    average = sum(mix.prices.values()) / len(mix.prices)
    prices = {arc: price + _SHAKE * average * chance.random() for arc, price in mix.prices.items()}
    return replace(mix, prices=prices)


def _shortened(columns: Columns, chosen: list[int], most: int) -> tuple[list[int], Mix]:
    mix = columns.mix(chosen)
    while len(chosen) > most:
        spare = [place for place in range(len(chosen)) if _can_go(columns, chosen, place)]
        spare.sort(key=lambda place: mix.weights[place])
        for place in spare[: max(1, (len(chosen) - most) // 2)]:
            if _can_go(columns, chosen, place):
                chosen[place] = _GONE
        chosen = [index for index in chosen if index != _GONE]
        mix = columns.mix(chosen)
    return chosen, mix


def _exchanged(columns: Columns, chosen: list[int], offers: Sequence[Entry]) -> tuple[list[int], Mix] | None:
    """The best choice of as many trees with one of the offers among them; None if all are chosen already."""
    tries = []
    for entry in offers:
        columns.add(entry)
        index = columns.entries.index(entry)
        if index in chosen:
            continue
        more = [*chosen, index]
        for place in range(len(chosen)):
            if _can_go(columns, more, place):
                rest = [*more[:place], *more[place + 1 :]]
                tries.append((rest, columns.mix(rest)))
    return max(tries, key=lambda item: item[1].rate, default=None)


def _can_go(columns: Columns, chosen: Sequence[int], place: int) -> bool:
    """Whether the root of a chosen tree keeps another one, where roots have shares."""
    if columns.shares is None:
        return True
    root = columns.entries[chosen[place]].root
    return sum(index != _GONE and columns.entries[index].root == root for index in chosen) > 1
