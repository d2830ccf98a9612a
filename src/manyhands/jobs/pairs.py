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
"""How many standard deviations are added to an estimate. Less finds less; more tries nearly every pair."""


Kind = TypeVar("Kind", int, str)


class Pairs(Generic[Kind]):
    """Speeds of two kinds on shared slots, each over that of having them alone.

    Args:
        measured: the speeds that were measured, by two kinds.
    """

    def __init__(self, measured: Mapping[tuple[Kind, Kind], Speeds] | None = None) -> None:
        self.measured: dict[tuple[Kind, Kind], Speeds] = {}
        self._fitted: _Fit[Kind] | None = None
        for (a, b), speeds in (measured or {}).items():
            self.measure(a, b, speeds)

    def measure(self, a: Kind, b: Kind, speeds: Speeds) -> None:
        """Remember the speeds of two kinds that shared slots in a trial."""
        self.measured[a, b] = speeds
        self.measured[b, a] = speeds[::-1]
        self._fitted = None

    def among(self, kinds: Iterable[Kind]) -> dict[tuple[Kind, Kind], Speeds]:
        """What `State.pairs` is to hold of these kinds: what was measured, guesses otherwise."""
        self._fitted = self._fitted or _Fit(self.measured)
        chosen = sorted(set(kinds))
        speed = self._fitted.hopes(chosen)
        pairs = {(a, b): (speed[i][j], speed[j][i]) for i, a in enumerate(chosen) for j, b in enumerate(chosen)}
        return pairs | {pair: speeds for pair, speeds in self.measured.items() if pair in pairs}


class _Fit(Generic[Kind]):
    """The model's numbers, after what was measured. A kind that was never tried has those of the prior."""

    def __init__(self, measured: Mapping[tuple[Kind, Kind], Speeds]) -> None:
        # Two that do not fit side by side say nothing about how they disturb others.
        ran = {pair: speeds[0] for pair, speeds in measured.items() if min(speeds) > 0}
        kinds = sorted({kind for pair in ran for kind in pair})
        self._row_of = {kind: row for row, kind in enumerate(kinds)}
        self._count = count = len(kinds) + 1  # the last is for all that were never tried
        at, matrix = np.arange(len(ran)), np.zeros((len(ran), 2 * count + 1))
        matrix[at, [self._row_of[a] for a, _ in ran]] = -1.0
        matrix[at, [count + self._row_of[b] for _, b in ran]] = -1.0
        matrix[:, -1] = 1.0
        told = matrix.T @ np.log(np.array(list(ran.values()))) / NOISE**2
        told[-1] += math.log(AVERAGE) / SPREAD**2
        self._covariance = np.linalg.inv(matrix.T @ matrix / NOISE**2 + np.eye(2 * count + 1) / SPREAD**2)
        self._mean = self._covariance @ told

    def hopes(self, kinds: list[Kind]) -> list[list[float]]:
        """The speed of each kind (row) beside each (column) over that alone, if all goes well."""
        mean, covariance = self._mean, self._covariance
        disturbed = np.array([self._row_of.get(kind, self._count - 1) for kind in kinds], dtype=np.int64)[:, None]
        disturbs = self._count + disturbed.T
        estimate = mean[-1] - mean[disturbed] - mean[disturbs]
        variance = covariance[disturbed, disturbed] + covariance[disturbs, disturbs] + covariance[-1, -1]
        variance += 2 * (covariance[disturbed, disturbs] - covariance[disturbed, -1] - covariance[disturbs, -1])
        return np.minimum(1.0, np.exp(estimate + HOPE * np.sqrt(NOISE**2 + variance))).tolist()
