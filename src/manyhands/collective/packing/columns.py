"""The best weights of given trees, with a price on every link: a linear program whose columns are trees.

    max sum of weights,  so that on every link the load of all trees is at most its capacity

and, where shares per root are fixed, the weights of each root's trees add up to its share. Its dual prices the links;
a tree that costs less than 1 improves the program, and if none does, it is optimal: sum(capacity * price) / (cost of
the cheapest tree) bounds the rate whatever the prices are. A basic solution uses at most one tree per link.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csc_array

from manyhands.collective.packing.entries import Entry, Weights
from manyhands.collective.packing.exact import Row, solve_tight
from manyhands.collective.packing.network import Arc, Network


@dataclass(frozen=True)
class Mix:
    """A solution in floating point."""

    rate: float
    weights: np.ndarray
    """Weights of the entries, in their order."""
    prices: dict[Arc, float]
    """The price of each link; a tree of total price 1 is just worth it."""
    premiums: dict[int, float]
    """For each root, where shares are fixed: what a tree may cost beyond the average."""


class Columns:
    """A growing set of trees in one network."""

    def __init__(self, network: Network, shares: Mapping[int, Fraction] | None) -> None:
        self.shares = shares
        self.entries: list[Entry] = []
        self._known: set[Entry] = set()
        self._row = {arc: index for index, arc in enumerate(network.capacity)}
        self._capacity = np.array(list(network.capacity.values()), dtype=float)
        self._scale = float(self._capacity.max(initial=1.0))
        self._loads: list[tuple[list[int], list[int]]] = []

    def add(self, entry: Entry) -> bool:
        """Add a tree; returns False if it is known already."""
        if entry in self._known:
            return False
        self._known.add(entry)
        self.entries.append(entry)
        loads = entry.loads()
        self._loads.append(([self._row[arc] for arc in loads], list(loads.values())))
        return True

    def mix(self, chosen: Sequence[int] | None = None) -> Mix:
        """The best weights of these entries (all, if not given)."""
        chosen = range(len(self.entries)) if chosen is None else chosen
        matrix = self._matrix(chosen)
        equal, right = self._shares(chosen)
        columns = len(chosen) + (self.shares is not None)
        objective = np.full(columns, -1.0)
        if self.shares is not None:
            objective[:-1] = 0.0  # the rate is a column of its own
        result = linprog(
            objective, A_ub=matrix, b_ub=self._capacity / self._scale, A_eq=equal, b_eq=right, method="highs-ds"
        )
        if result.x is None:
            raise ArithmeticError(f"the weights of a packing were not found: {result.message}")
        prices = np.maximum(-np.asarray(result.ineqlin.marginals), 0.0)
        premiums = {}
        if self.shares is not None:
            premiums = dict(zip(self.shares, (float(value) for value in result.eqlin.marginals), strict=True))
        return Mix(
            rate=-float(result.fun) * self._scale,
            weights=np.maximum(result.x[: len(chosen)], 0.0) * self._scale,
            prices={arc: float(prices[row]) for arc, row in self._row.items()},
            premiums=premiums,
        )

    def _matrix(self, chosen: Sequence[int]) -> csc_array:
        rows = [row for index in chosen for row in self._loads[index][0]]
        counts = [float(count) for index in chosen for count in self._loads[index][1]]
        starts = np.cumsum([0, *(len(self._loads[index][0]) for index in chosen), *([0] * (self.shares is not None))])
        return csc_array((counts, rows, starts), shape=(len(self._capacity), len(starts) - 1))

    def _shares(self, chosen: Sequence[int]) -> tuple[np.ndarray | None, np.ndarray | None]:
        if self.shares is None:
            return None, None
        equal = np.zeros((len(self.shares), len(chosen) + 1))
        for row, (root, share) in enumerate(self.shares.items()):
            equal[row, :-1] = [self.entries[index].root == root for index in chosen]
            equal[row, -1] = -float(share)
        return equal, np.zeros(len(self.shares))


def exact_weights(
    network: Network, entries: Sequence[Entry], floats: np.ndarray, shares: Mapping[int, Fraction] | None
) -> Weights:
    """The weights as fractions that certainly fit, as large as may be.

    Both guesses, small denominators and the solution of the links that are full, are scaled by what the fullest link
    allows, so they are safe; the better one is taken.
    """
    used = [place for place, value in enumerate(floats) if value > 1e-9 * float(floats.sum())]
    chosen, values = [entries[place] for place in used], floats[used]
    simple = [Fraction(float(value)).limit_denominator(1000) for value in values]
    guesses = [simple, solve_tight(_full_rows(network, chosen, values, shares), values)]
    fitted = [_fitted(network, chosen, guess, shares) for guess in guesses if min(guess) >= 0]
    return max(fitted, key=lambda weights: sum(weights.values()))


def _full_rows(
    network: Network, entries: Sequence[Entry], floats: np.ndarray, shares: Mapping[int, Fraction] | None
) -> list[Row]:
    """Equations of the linear program: full links, and each root's share of the total."""
    rows: list[Row] = []
    for root, share in (shares or {}).items():
        left = {place: (entry.root == root) - share for place, entry in enumerate(entries)}
        rows.append(({place: factor for place, factor in left.items() if factor}, Fraction(0)))
    loads: dict[Arc, dict[int, Fraction]] = {}
    for place, entry in enumerate(entries):
        for arc, count in entry.loads().items():
            loads.setdefault(arc, {})[place] = Fraction(count)
    for arc, row in loads.items():
        capacity = network.capacity[arc]
        load = sum(float(count) * float(floats[place]) for place, count in row.items())
        if load > capacity * (1 - 1e-9):
            rows.append((row, Fraction(capacity)))
    return rows


def _fitted(
    network: Network, entries: Sequence[Entry], guess: Sequence[Fraction], shares: Mapping[int, Fraction] | None
) -> Weights:
    weights = {entry: weight for entry, weight in zip(entries, guess, strict=True) if weight}
    if shares is not None:
        weights = _in_shares(weights, shares)
    loads: dict[Arc, Fraction] = {}
    for entry, weight in weights.items():
        for arc, count in entry.loads().items():
            loads[arc] = loads.get(arc, Fraction(0)) + weight * count
    fit = min(network.capacity[arc] / load for arc, load in loads.items())
    return {entry: weight * fit for entry, weight in weights.items()}


def _in_shares(weights: Weights, shares: Mapping[int, Fraction]) -> Weights:
    """Every root gets exactly its share of the total."""
    rooted: dict[int, Fraction] = {}
    for entry, weight in weights.items():
        rooted[entry.root] = rooted.get(entry.root, Fraction(0)) + weight
    total = sum(weights.values(), Fraction(0))
    return {entry: weight / rooted[entry.root] * shares[entry.root] * total for entry, weight in weights.items()}
