"""How much data each rank should be root of, and which share of each link hands out: the optimum and its proof.

Problem: all-reduce sends every byte up a tree and down another, over the same links. Fixing the split of the links
beforehand (reduce-scatter, then all-gather) is not optimal in general.

Idea: by Edmonds' theorem trees rooted at v of total weight x_v fit into capacities b if and only if every set D of
nodes is entered by at least what is rooted outside: b(into D) >= x(ranks not in D); with forwarders that have as
much in as out it stays true (Bang-Jensen, Frank, Jackson). So the optimum is a linear program over x, b (to hand
out) and r (to add up, the same on the reversed network) with b + r <= c, whose exponentially many rows are found as
they are needed, by minimum cuts. Where every link is as fast backwards as forwards, r may mirror b: half the program,
and each reduce tree is a broadcast tree backwards. Its dual is the proof of optimality: weights on a few sets D.

Cost: 2 to 20 rounds of one LP of O(links) variables and n max-flows. Both sides are stated in exact fractions.

Source: Edmonds 1973; Bang-Jensen, Frank, Jackson 1995 (SIAM J. Disc. Math. 8); the split of the links as
variables: ForestColl (arXiv 2402.06787) fixes it; for links without direction this is Nash-Williams, Tutte 1961.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import lcm
from typing import NamedTuple

import numpy as np
from scipy.optimize import linprog

from manyhands.collective.packing.exact import Row, fraction, matrix, solve_tight
from manyhands.collective.packing.flow import Flows
from manyhands.collective.packing.network import Arc, Network

_TOLERANCE = 1e-7


class Cut(NamedTuple):
    """A set of nodes that bounds the rate: what is rooted outside has to enter it."""

    layer: int
    """0: on the way out of the roots; 1: on the way in, on the reversed network."""
    inside: frozenset[int]


@dataclass(frozen=True)
class Optimum:
    """The best rate, how to reach it, and why there is no better one."""

    rate: Fraction
    """The best rate, in units of the network."""
    bound: Fraction
    roots: dict[int, int]
    """What is rooted where, times `scale`."""
    layers: tuple[dict[Arc, int], ...]
    """The capacity to hand out, and (not where it mirrors the former) to add up, of reversed arcs, times `scale`."""
    scale: int
    cuts: tuple[tuple[Cut, Fraction], ...]
    """The sets that prove the bound, with their weights."""


def optimum(
    network: Network, shares: Mapping[int, Fraction] | None, *, relays: bool = False, mirrored: bool = False
) -> Optimum:
    """Solve for all-reduce (`shares` None), or for handing out when each rank is the root of this share of the data.

    Where capacities agree to some eight digits but not exactly, floating point cannot tell which of them bind; they
    are then rounded down to six, and the proof of the original ones shows the loss.

    With `mirrored`, given shares also take the same way back in (all-reduce whose roots are given, on duplex links).
    With `relays`, nodes without data may also add and copy as they are able to. That is then a bound on every forest,
    but trees may not reach it: the program allows what only coding in the network could do.
    """
    program = _Program(network, shares, relays, mirrored)
    found = program.run()
    if found is not None:
        return found
    grain = max(1, program.limit >> 20)
    coarse = replace(network, capacity={arc: amount - amount % grain for arc, amount in network.capacity.items()})
    rounded = _Program(coarse, shares, relays, mirrored)
    rounded.cuts = program.cuts
    found = rounded.run()
    if found is None:
        raise ArithmeticError("the optimum of a packing could not be written in fractions")
    bound, cuts = program.proof()
    return replace(found, bound=bound, cuts=cuts)


class _Program:
    """The linear program and the cuts that were found so far.

    Columns: what is rooted where (or, with given shares, the rate), then the arcs of each layer.
    """

    def __init__(self, network: Network, shares: Mapping[int, Fraction] | None, relays: bool, mirrored: bool) -> None:
        self.network = network
        self.shares = shares
        self.limit = self._limit()
        self.able = (network.copiers, network.adders) if relays else (frozenset(), frozenset())
        self.mirrored = mirrored or (shares is None and network.is_duplex and self.able[0] == self.able[1])
        self.arcs = list(network.capacity)
        layers = 2 if shares is None and not self.mirrored else 1
        self.rooted = network.ranks if shares is None else 1
        self.column: list[dict[Arc, int]] = []
        """The column of each arc, by layer; arcs of layer 1 are those of the reversed network."""
        for layer in range(layers):
            first = self.rooted + layer * len(self.arcs)
            flipped = [(v, u) if layer else (u, v) for u, v in self.arcs]
            self.column.append({arc: first + index for index, arc in enumerate(flipped)})
        self.columns = self.rooted + layers * len(self.arcs)
        self.cuts: dict[Cut, dict[int, Fraction]] = {}
        for layer in range(layers):
            for rank in range(network.ranks):
                self.add(Cut(layer, frozenset([rank])))
        self.links = self._links()
        self.balances = self._balances()

    def _limit(self) -> int:
        """A limit that the rate cannot exceed: twice what the rank that is hardest to reach can receive."""
        into = dict.fromkeys(range(self.network.ranks), 0)
        for (_, v), amount in self.network.capacity.items():
            if v in into:
                into[v] += amount
        return 2 * min((total for v, total in into.items() if not self.shares or self.shares.get(v) != 1)) or 1

    def _links(self) -> list[tuple[int, list[int]]]:
        """Each link's capacity, or what all trees could use if that is less, and the columns that share it."""
        most = 2 * self.network.ranks * self.limit
        rows: dict[Arc, list[int]] = {}
        for layer, columns in enumerate(self.column):
            for (u, v), column in columns.items():
                arc = (min(u, v), max(u, v)) if self.mirrored else (v, u) if layer else (u, v)
                rows.setdefault(arc, []).append(column)
        return [(min(most, self.network.capacity[arc]), columns) for arc, columns in rows.items()]

    def _balances(self) -> list[tuple[int, int, dict[int, int]]]:
        """For each layer and forwarder, the signs of the columns that have to add up to zero."""
        rows = []
        for layer, columns in enumerate(self.column):
            for node in sorted(set(self.network.forwarders) - self.able[layer]):
                row = {column: 1 for (_, v), column in columns.items() if v == node}
                row |= {column: -1 for (u, _), column in columns.items() if u == node}
                if row:
                    rows.append((layer, node, row))
        return rows

    def add(self, cut: Cut) -> bool:
        """Demand that what is rooted outside can enter. False: it was demanded already."""
        if cut in self.cuts:
            return False
        row = {
            column: Fraction(1)
            for (u, v), column in self.column[cut.layer].items()
            if v in cut.inside and u not in cut.inside
        }
        outside = [rank for rank in range(self.network.ranks) if rank not in cut.inside]
        if self.shares is None:
            row |= {rank: Fraction(-1) for rank in outside}
        else:
            row[0] = -sum((self.shares.get(rank, Fraction(0)) for rank in outside), Fraction(0))
        self.cuts[cut] = row
        return True

    def run(self) -> Optimum | None:
        """Solve and separate until nothing is violated. None: there is no telling in floating point."""
        while True:
            self.solve()
            if self.separate_floats():
                continue
            fractions = self._fractions()
            if fractions is None:
                return None
            found = self._proved(fractions)
            if found is not None:
                return found

    def solve(self) -> None:
        """The optimum over the rows so far, in floating point, with rates of about 1."""
        rows = [{column: -float(value) for column, value in row.items()} for row in self.cuts.values()]
        limits = [0.0] * len(rows)
        for capacity, columns in self.links:
            rows.append(dict.fromkeys(columns, 1.0))
            limits.append(capacity / self.limit)
        objective = np.zeros(self.columns)
        objective[: self.rooted] = -1.0
        equalities = [{column: float(sign) for column, sign in row.items()} for _, _, row in self.balances]
        result = linprog(
            objective,
            A_ub=matrix(rows, self.columns),
            b_ub=limits,
            A_eq=matrix(equalities, self.columns) if equalities else None,
            b_eq=np.zeros(len(equalities)) if equalities else None,
            method="highs-ds",
        )
        if result.x is None:
            raise ArithmeticError(f"the linear program of a packing was not solved: {result.message}")
        self.solution = np.maximum(result.x, 0.0)
        self.slack = np.asarray(result.slack)
        self.cut_weight = -np.asarray(result.ineqlin.marginals)[: len(self.cuts)]
        self.potential = -np.asarray(result.eqlin.marginals) if equalities else np.zeros(0)

    def roots(self, values: Sequence[Fraction]) -> list[Fraction]:
        """What is rooted at each rank, by a solution."""
        if self.shares is None:
            return list(values[: self.rooted])
        return [values[0] * self.shares.get(rank, Fraction(0)) for rank in range(self.network.ranks)]

    def separate_floats(self) -> bool:
        """Add the cuts that the floating-point solution violates. False: there are none to speak of."""
        total = float(self.solution[: self.rooted].sum())
        if total <= _TOLERANCE:
            return False
        scale = 1e8 / max(1.0, float(self.solution.sum()))
        floats = [Fraction(float(value)) for value in self.solution[: self.rooted]]
        roots = {rank: round(amount * Fraction(scale)) for rank, amount in enumerate(self.roots(floats))}
        found = False
        for layer, columns in enumerate(self.column):
            capacity = {arc: round(self.solution[column] * scale) for arc, column in columns.items()}
            found |= self._separate(layer, capacity, roots, slack=round(total * scale * 1e-5) + 1)
        return found

    def _separate(self, layer: int, capacity: Mapping[Arc, int], roots: Mapping[int, int], slack: int = 0) -> bool:
        source = self.network.size
        flows = Flows(source + 1, {**capacity, **{(source, rank): amount for rank, amount in roots.items()}})
        total = sum(roots.values())
        found = False
        for rank in range(self.network.ranks):
            value, inside = flows.cut(source, rank)
            if value < total - slack:
                found |= self.add(Cut(layer, inside))
        return found

    def _proved(self, fractions: list[Fraction]) -> Optimum | None:
        """The optimum, if these fractions violate no cut at all; else None, and the cuts are added."""
        scale = lcm(*(value.denominator for value in fractions))
        shares = self.roots(fractions)
        scale = lcm(scale, *(value.denominator for value in shares))
        roots = {rank: int(value * scale) for rank, value in enumerate(shares) if value}
        layers = tuple(
            {arc: int(fractions[column] * scale) for arc, column in columns.items() if fractions[column]}
            for columns in self.column
        )
        violated = [self._separate(layer, capacity, roots) for layer, capacity in enumerate(layers)]
        if any(violated):
            return None
        rate = sum(fractions[: self.rooted], Fraction(0))
        bound, cuts = self.proof()
        return Optimum(rate=rate, bound=bound, roots=roots, layers=layers, scale=scale, cuts=cuts)

    def _fractions(self) -> list[Fraction] | None:
        """The solution in fractions: with small denominators if those do, else by solving the rows that are tight."""
        floats = self.solution * self.limit
        values = [Fraction(float(value)).limit_denominator(1000) for value in floats]
        if self._holds(values) and lcm(*(value.denominator for value in values)) < 10**6:
            return values
        for tolerance in (1e-13, 1e-11, 1e-9, 1e-7):
            values = solve_tight(self._rows(tolerance), floats)
            if self._holds(values):
                return values
        return None

    def _holds(self, values: Sequence[Fraction]) -> bool:
        """Whether every row so far is satisfied."""
        return (
            min(values) >= 0
            and all(sum(values[column] for column in columns) <= capacity for capacity, columns in self.links)
            and all(sum(values[column] * sign for column, sign in row.items()) == 0 for _, _, row in self.balances)
            and all(sum(values[column] * factor for column, factor in row.items()) >= 0 for row in self.cuts.values())
        )

    def _rows(self, tolerance: float) -> list[Row]:
        """The rows that the solution satisfies with equality, the surest first."""
        nothing = Fraction(0)
        signs = [row for _, _, row in self.balances]
        rows: list[Row] = [({column: Fraction(sign) for column, sign in row.items()}, nothing) for row in signs]
        others: list[Row] = [(row, nothing) for row in self.cuts.values()]
        others += [(dict.fromkeys(columns, Fraction(1)), Fraction(capacity)) for capacity, columns in self.links]
        order = np.argsort(np.abs(self.slack), kind="stable")
        return rows + [others[index] for index in order if self.slack[index] < tolerance]

    def proof(self) -> tuple[Fraction, tuple[tuple[Cut, Fraction], ...]]:
        """The bound that the dual proves: valid whatever its weights are, tight when they are optimal.

        Weights y on sets and potentials p on forwarders price a column at y(sets it enters) + p(target) - p(source);
        a link costs its dearest column, and what is rooted at v earns y(sets without v).
        """
        weights = [(cut, fraction(value)) for cut, value in zip(self.cuts, self.cut_weight, strict=True)]
        weights = [(cut, weight) for cut, weight in weights if weight > 0]
        price: dict[int, Fraction] = {}
        for cut, weight in weights:
            for column, factor in self.cuts[cut].items():
                price[column] = price.get(column, Fraction(0)) + weight * factor
        for (_, _, row), value in zip(self.balances, self.potential, strict=True):
            for column, sign in row.items():
                price[column] = price.get(column, Fraction(0)) - fraction(value) * sign
        least = min((-price.get(column, Fraction(0)) for column in range(self.rooted)), default=Fraction(0))
        if least <= 0:
            return Fraction(sum(self.network.capacity.values())), ()
        cost = Fraction(0)
        for capacity, columns in self.links:
            cost += capacity * max(Fraction(0), *(price.get(column, Fraction(0)) for column in columns))
        return cost / least, tuple((cut, weight / least) for cut, weight in weights)
