"""What a policy did to the jobs, in numbers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from manyhands.jobs.simulator.simulate import Outcome
from manyhands.jobs.state import Floats

_SHORT = 10.0
"""Jobs of fewer seconds count as that long when slowness is compared, as is usual (bounded slowdown)."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What a policy did to the jobs that have ended; times in seconds.

    Attributes:
        jobs: how many have ended.
        completion: times from submission to the end: mean and percentiles.
        wait: times without slots, from submission to the end.
        utilisation: slot-seconds held over those that there were until the last end.
        useful: the same for work that was done: what jobs ask for, without pauses, restarts and slowness.
        makespan: the time from the first submission to the last end.
        fairness: Jain's index over users' mean slowdown (completion over what a job takes alone, at least 10 s);
            1: all fare alike.
        decisions: how many of each kind were made.
    """

    jobs: int
    completion: dict[str, float]
    wait: dict[str, float]
    utilisation: float
    useful: float
    makespan: float
    fairness: float
    decisions: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def figures(outcome: Outcome) -> Figures:
    """The figures of a simulation."""
    trace = outcome.trace
    ended = ~np.isnan(outcome.ended)
    took = outcome.ended[ended] - trace.submitted[ended]
    waited = took - outcome.ran[ended]
    span = float(np.nanmax(outcome.ended) - trace.submitted[ended][0]) if ended.any() else 0.0
    slowdown = np.maximum(1.0, took / np.maximum(_SHORT, trace.seconds[ended]))
    users = trace.user[ended]
    means = np.array([slowdown[users == user].mean() for user in np.unique(users)])
    return Figures(
        jobs=int(ended.sum()),
        completion=_spread(took),
        wait=_spread(waited),
        utilisation=outcome.used / (outcome.slots * span) if span else 0.0,
        useful=float(trace.work[ended].sum()) / (outcome.slots * span) if span else 0.0,
        makespan=span,
        fairness=float(means.sum() ** 2 / (len(means) * (means**2).sum())) if len(means) else 1.0,
        decisions=dict(outcome.decisions),
    )


def _spread(values: Floats) -> dict[str, float]:
    if not len(values):
        return dict.fromkeys(("mean", "p50", "p95", "p99"), 0.0)
    p50, p95, p99 = np.percentile(values, (50, 95, 99))
    return {"mean": float(values.mean()), "p50": float(p50), "p95": float(p95), "p99": float(p99)}
