"""Grow jobs into idle slots; shrink them when somebody waits.

Who runs is decided by a policy underneath, which sees every job with the fewest workers that it can have. Who has to
make room for newcomers are those that have most of what they can use; what is left goes to those that have least of it.
A change stops a job for seconds, so only who has been as it is for a while grows: for longer, if it gains less.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from manyhands.jobs.policies.order import running
from manyhands.jobs.policies.place import most_together, place
from manyhands.jobs.state import FREE, Decision, Ints, State, carried_out

_TIMES = 2.0
"""Whoever grows has been as it is for so many times what it takes until the growth has made good for the pause."""


def growing(policy: Callable[[State], list[Decision]], pause: float = 5.0) -> Callable[[State], list[Decision]]:
    """A policy that gives what `policy` leaves over to jobs that can use it.

    Args:
        pause: seconds that a change takes.
    """

    def decide(state: State) -> list[Decision]:
        jobs, total = state.jobs, len(state.slots)
        least = shrunk(state)
        chosen = np.flatnonzero(carried_out(least, policy(least)).jobs.workers > 0)
        stays = jobs.runs[chosen]
        rows = np.concatenate([chosen[stays], chosen[~stays]])
        workers = np.where(jobs.runs[rows], jobs.workers[rows], jobs.least[rows])
        left = total - int(workers.sum())
        if left < 0:
            among = workers > jobs.least[rows]
        else:
            among = (workers < jobs.most[rows]) & ~_too_soon(state, rows, workers, jobs.most[rows], pause)
        before = workers.copy()
        _share_out(left, workers, jobs.least[rows], jobs.most[rows], np.flatnonzero(among))
        workers = np.where(_too_soon(state, rows, before, workers, pause), before, workers)
        return place(state, rows, workers)

    return decide


def _too_soon(state: State, rows: Ints, before: Ints, after: Ints, pause: float) -> NDArray[np.bool_]:
    """Whether each row would grow, and has not been as it is for long enough."""
    jobs, more = state.jobs, after - before
    repaid = pause * before / np.maximum(1, more)
    return (more > 0) & jobs.runs[rows] & (jobs.since[rows] < _TIMES * repaid)


def shrunk(state: State) -> State:
    """The state as if every job had the fewest workers that it can have."""
    jobs, first, workers = state.jobs, state.first.copy(), state.jobs.workers.copy()
    rows = running(state)
    for row in rows[jobs.workers[rows] > jobs.least[rows]]:
        own = np.flatnonzero(first == row)
        keep = most_together(state.slots, own, int(jobs.least[row]))
        first[own] = FREE
        first[keep] = row
        workers[row] = jobs.least[row]
    return replace(state, jobs=replace(jobs, workers=workers), first=first)


def _share_out(count: int, workers: Ints, least: Ints, most: Ints, among: Ints) -> None:
    """Give one worker after another to who has the smallest part of what it can use; below 0, take them from who has
    the largest. Ties go to who came first, so that nothing moves while nobody comes or goes."""
    sign = 1 if count > 0 else -1
    queue = [(sign * workers[i] / most[i], sign * i) for i in among.tolist()]
    heapq.heapify(queue)
    while count and queue:
        i = sign * heapq.heappop(queue)[1]
        workers[i] += sign
        count -= sign
        if (workers[i] < most[i]) if sign > 0 else (workers[i] > least[i]):
            heapq.heappush(queue, (sign * workers[i] / most[i], sign * i))
