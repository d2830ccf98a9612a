"""Cuts that are best for one table, rather than in general.

Problem: the slowest stage decides only where a rank owns one stage. With several it is their sum that counts: in a V
the rank with the heavy head also owns the first stage, which should then be small. Links, filling and draining count
too.
Idea: begin with balanced cuts, and hand a unit's worth from one stage to another (the cuts between the two move
together) as long as the simulator finds the step faster for it, always by the move that gains most.
Cost: stages^2 simulations a round, a few rounds: 0.3 s for 8 stages and 8 micro-batches. Never slower than where it
began, not always the best there is. On 30 blocks and a head as heavy as nine, zb-v on 4 ranks gains 10 %, 1f1b
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from manyhands.pipeline.costs import Link, stage_costs
from manyhands.pipeline.cuts import UnitCost
from manyhands.pipeline.simulate import simulate
from manyhands.pipeline.table import Table

Cuts = tuple[int, ...]


def refine(
    units: Sequence[UnitCost],
    cuts: Cuts,
    table: Table,
    links: Sequence[Link] | None = None,
    overhead: float = 0.0,
    *,
    fits: Callable[[Cuts], bool] = lambda cuts: True,
) -> Cuts:
    """Cuts near `cuts` with which the table is faster, or `cuts`.

    Args:
        links: between every two neighbouring stages; None: transfers cost nothing.
        overhead: seconds of every action besides its mathematics.
        fits: whether cuts are allowed, by memory for instance.
    """

    def seconds(candidate: Cuts) -> float:
        return simulate(table, stage_costs(units, candidate, links, overhead)).seconds

    best = (seconds(cuts), cuts)
    while True:
        better = min(((seconds(near), near) for near in _near(best[1], len(units)) if fits(near)), default=best)
        if better[0] >= best[0]:
            return best[1]
        best = better


def _near(cuts: Cuts, units: int) -> Iterator[Cuts]:
    """Cuts with one unit less in one stage and one more in another."""
    for first in range(1, len(cuts)):
        for last in range(first, len(cuts)):
            for shift in (-1, 1):
                moved = tuple(cut + shift if first <= index <= last else cut for index, cut in enumerate(cuts))
                if all(a < b for a, b in pairwise((*moved, units))):
                    yield moved
