"""Jobs like those of a public trace, from a seed.

Fitted to 30,940 jobs of Microsoft's Philly cluster (as ChronusArtifact has them): most want one device, what they take
is lognormal with a median of 60 and a mean of 260, and a few large gangs have most of the work. Arrivals are a Poisson
process whose rate makes the load that is asked for.
"""

from __future__ import annotations

import numpy as np

from manyhands.jobs.simulator.jobs import Trace

SIZES = {1: 0.9215, 2: 0.007, 4: 0.0386, 8: 0.0291, 16: 0.0034, 32: 0.0004}
MEDIAN, SIGMA = 60.0, 1.71
SHORTEST, LONGEST = 20.0, 4317.0
USERS = 11


def generate(
    jobs: int, slots: int, *, seed: int = 0, load: float = 1.0, elastic: float = 0.0, spread: float = 1.0
) -> Trace:
    """So many jobs for a cluster of so many slots.

    Args:
        load: slot-seconds asked for over those that there are, while jobs come.
        elastic: share of the jobs that can use four times the workers that they need.
        spread: speed of gangs on more hosts than they need.
    """
    random = np.random.default_rng(seed)
    sizes = np.array([size for size in SIZES if size <= slots])
    chances = np.array([SIZES[size] for size in sizes.tolist()])
    least = random.choice(sizes, size=jobs, p=chances / chances.sum())
    seconds = np.clip(random.lognormal(np.log(MEDIAN), SIGMA, jobs), SHORTEST, LONGEST)
    gaps = random.exponential(1.0, jobs)
    span = (least * seconds).sum() / (slots * load)
    submitted = np.cumsum(gaps) * span / gaps.sum()
    most = np.where(random.random(jobs) < elastic, np.minimum(4 * least, slots), least)
    return Trace(
        name=f"{jobs} generated jobs (seed {seed}, load {load:g})",
        submitted=submitted,
        least=least,
        most=most,
        seconds=seconds,
        user=random.integers(0, USERS, jobs),
        priority=random.integers(0, 3, jobs),
        kind=np.zeros(jobs, dtype=np.int64),
        spread=np.full(jobs, spread),
        names=[f"job-{number}" for number in range(jobs)],
        users=[f"user-{number}" for number in range(USERS)],
        kinds=[""],
    )
