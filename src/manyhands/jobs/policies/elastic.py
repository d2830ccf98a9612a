"""Grow jobs into idle slots; shrink them when somebody waits.

As many jobs run, first come first served, as there is room for with the fewest workers that they can have. Who has to
make room for them are those that have most of what they can use; what is left goes to those that have least of it. A
change stops a job for seconds, so only who has been as it is for a while grows.
"""

from __future__ import annotations

import heapq

import numpy as np

from manyhands.jobs.policies.order import before_the_first_that_lacks_room, running, waiting
from manyhands.jobs.policies.place import place
from manyhands.jobs.state import Decision, Ints, State

SETTLED = 300.0
"""Seconds."""


def elastic(state: State) -> list[Decision]:
    jobs, runs, waits = state.jobs, running(state), waiting(state)
    total = len(state.slots)
    begins = before_the_first_that_lacks_room(waits, jobs.least[waits], total - int(jobs.least[runs].sum()))
    rows = np.concatenate([runs, begins])
    workers = np.concatenate([jobs.workers[runs], jobs.least[begins]])
    left = total - int(workers.sum())
    grows = np.concatenate([jobs.since[runs] >= SETTLED, np.ones(len(begins), dtype=bool)])
    if left < 0:
        _share_out(left, workers, jobs.least[rows], jobs.most[rows], np.flatnonzero(workers > jobs.least[rows]))
    else:
        _share_out(
            left, workers, jobs.least[rows], jobs.most[rows], np.flatnonzero(grows & (workers < jobs.most[rows]))
        )
    return place(state, rows, workers)


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
