"""Jobs like those of a public trace, from a seed.

Fitted to 30,940 jobs of Microsoft's Philly cluster (as ChronusArtifact has them, in minutes): nine of ten want one
device and take an hour (median), the others take half a day, and more than half of the work is in gangs of eight or
more. Times are lognormal within a class of sizes. Arrivals are a Poisson process whose rate makes the load that is
asked for; the trace's own come in bursts. Speeds of pairs are fitted to 26 kinds of jobs that shared V100s (Gavel's
figures): a product of two numbers and noise; a fifth of the pairs get less done than one alone, and 6 % do not fit.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from manyhands.jobs.simulator.jobs import Trace
from manyhands.jobs.state import Floats, Ints

SIZES = {1: 0.9215, 2: 0.007, 4: 0.0386, 8: 0.0291, 16: 0.0034, 32: 0.0004}
SHORTEST, LONGEST = 20 * 60.0, 4317 * 60.0
USERS = 11


class _Class(NamedTuple):
    """Jobs of similar size, whose times are lognormal."""

    least: int
    """The fewest workers that a job of the class has."""
    median: float
    """The median of the jobs' times, in s."""
    sigma: float
    """The standard deviation of the logarithms of the jobs' times."""


_CLASSES = (_Class(1, 57 * 60.0, 1.53), _Class(2, 761 * 60.0, 1.1), _Class(8, 700 * 60.0, 1.09))


def generate(
    jobs: int,
    slots: int,
    *,
    seed: int = 0,
    load: float = 1.0,
    elastic: float = 0.0,
    spread: float = 1.0,
    kinds: int = 1,
) -> Trace:
    """A trace of so many jobs for a cluster of so many slots.

    Args:
        load: slot-seconds asked for over those that there are, while jobs come.
        elastic: share of the jobs that can use four times the workers that they need.
        spread: speed of gangs on more hosts than they need, over that on as few as can be.
        kinds: how many kinds of jobs there are, equally likely.
    """
    random = np.random.default_rng(seed)
    sizes = np.array([size for size in SIZES if size <= slots])
    chances = np.array([SIZES[size] for size in sizes.tolist()])
    least = random.choice(sizes, size=jobs, p=chances / chances.sum())
    seconds = _times(random, least)
    gaps = random.exponential(1.0, jobs)
    span = (least * seconds).sum() / (slots * load)
    submitted = np.cumsum(gaps) * span / gaps.sum()
    most = np.where(random.random(jobs) < elastic, np.minimum(4 * least, slots), least)
    return Trace(
        name=f"{jobs} generated jobs (seed {seed}, load {load:g})",
        submitted=submitted - submitted[0],
        least=least,
        most=most,
        seconds=seconds,
        user=random.integers(0, USERS, jobs),
        priority=random.integers(0, 3, jobs),
        kind=random.integers(0, kinds, jobs),
        spread=np.full(jobs, spread),
        names=[f"job-{number}" for number in range(jobs)],
        users=[f"user-{number}" for number in range(USERS)],
        kinds=[f"kind-{number}" for number in range(kinds)],
    )


def generate_pairs(kinds: int, seed: int = 0) -> dict[tuple[int, int], tuple[float, float]]:
    """The speeds of every two kinds on shared slots over those alone; (0, 0) for two that do not fit."""
    random = np.random.default_rng(seed)
    disturbed, disturbs = random.exponential(0.22, kinds), random.exponential(0.25, kinds)
    noise = random.normal(0.0, 0.28, (kinds, kinds))
    speed = np.minimum(1.0, np.exp(-disturbed[:, None] - disturbs[None, :] + noise))
    fits = random.random((kinds, kinds)) > 0.06
    return {
        (a, b): (float(speed[a, b]), float(speed[b, a])) if fits[min(a, b), max(a, b)] else (0.0, 0.0)
        for a in range(kinds)
        for b in range(kinds)
    }


def _times(random: np.random.Generator, least: Ints) -> Floats:
    """Seconds that each job takes; drawn again where they are out of range."""
    place = np.searchsorted([c.least for c in _CLASSES], least, side="right") - 1
    medians, sigmas = np.array([c.median for c in _CLASSES])[place], np.array([c.sigma for c in _CLASSES])[place]
    seconds = np.zeros(len(least))
    while (wrong := (seconds < SHORTEST) | (seconds > LONGEST)).any():
        seconds[wrong] = random.lognormal(np.log(medians[wrong]), sigmas[wrong])
    return seconds
