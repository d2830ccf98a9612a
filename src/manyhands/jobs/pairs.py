"""What is known of two jobs that share slots: speeds that were measured, and hopes where none were.

A job's speed beside another is taken to be the product of two numbers, how easily the one is disturbed and how much the
other disturbs:

    log speed(a beside b) = mean - disturbed[a] - disturbs[b] + noise

fitted to all pairs that were measured by least squares with a ridge, which is Bayes' rule for normal priors. What is
hoped of a pair that was not measured is the estimate and a part of its standard deviation more (an upper confidence
bound), so that pairs of which little is known are tried first. What was tried and lost is known, and not tried again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Generic, TypeVar

import numpy as np

Speeds = tuple[float, float]
AVERAGE = 0.75
"""Speed of each of two jobs of which nothing is known."""
NOISE = 0.3
"""Standard deviation of log speeds from the model: 0.28 on 26 kinds of jobs that shared V100s (Gavel's figures)."""
SPREAD = 0.3
"""Standard deviation of `disturbed`, `disturbs` and the mean."""
HOPE = 1.5
"""Standard deviations. Less finds less; more tries nearly every pair."""


Kind = TypeVar("Kind", int, str)


class Pairs(Generic[Kind]):
    """Speeds of two kinds on shared slots, each over that of having them alone.

    Args:
        measured: by two kinds.
    """

    def __init__(self, measured: Mapping[tuple[Kind, Kind], Speeds] | None = None) -> None:
        self.measured: dict[tuple[Kind, Kind], Speeds] = {}
        for (a, b), speeds in (measured or {}).items():
            self.measure(a, b, speeds)

    def measure(self, a: Kind, b: Kind, speeds: Speeds) -> None:
        """Remember how a trial went."""
        self.measured[a, b] = speeds
        self.measured[b, a] = speeds[::-1]

    def among(self, kinds: Iterable[Kind]) -> dict[tuple[Kind, Kind], Speeds]:
        """What `State.pairs` is to hold of these kinds: what was measured, guesses otherwise."""
        chosen = set(kinds)
        return self._hopes(sorted(chosen)) | {
            pair: speeds for pair, speeds in self.measured.items() if chosen.issuperset(pair)
        }

    def _hopes(self, kinds: list[Kind]) -> dict[tuple[Kind, Kind], Speeds]:
        """Of all pairs of these kinds."""
        known = sorted({*kinds, *(kind for pair in self.measured for kind in pair)})
        row_of, count = {kind: row for row, kind in enumerate(known)}, len(known)

        def design(pairs: list[tuple[Kind, Kind]]) -> np.ndarray:
            rows = np.arange(len(pairs))
            matrix = np.zeros((len(pairs), 2 * count + 1))
            matrix[rows, [row_of[a] for a, _ in pairs]] = matrix[rows, [count + row_of[b] for _, b in pairs]] = -1.0
            matrix[:, -1] = 1.0
            return matrix

        # Two that do not fit side by side say nothing about how they disturb others.
        ran = {pair: speeds[0] for pair, speeds in self.measured.items() if min(speeds) > 0}
        measured, logs = design(list(ran)), np.log(np.array(list(ran.values())))
        precision = measured.T @ measured / NOISE**2 + np.eye(2 * count + 1) / SPREAD**2
        covariance = np.linalg.inv(precision)
        told = measured.T @ logs / NOISE**2
        told[-1] += math.log(AVERAGE) / SPREAD**2
        wanted = [(a, b) for a in kinds for b in kinds]
        rows = design(wanted)
        deviation = np.sqrt(NOISE**2 + np.einsum("ij,jk,ik->i", rows, covariance, rows))
        hope = np.minimum(1.0, np.exp(rows @ covariance @ told + HOPE * deviation))
        speed = dict(zip(wanted, hope.tolist(), strict=True))
        return {(a, b): (speed[a, b], speed[b, a]) for a, b in wanted}
