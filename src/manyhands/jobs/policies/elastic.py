"""Grow jobs into idle slots; shrink them when somebody waits.

As many jobs run, first come first served, as there is room for with the fewest workers that they can have. What is left
goes to those that can use more, one worker after another to whoever has the smallest part of what it can use.
"""

from __future__ import annotations

import heapq

import numpy as np

from manyhands.jobs.policies.order import before_the_first_that_lacks_room, running, waiting
from manyhands.jobs.policies.place import place
from manyhands.jobs.state import Decision, State


def elastic(state: State) -> list[Decision]:
    jobs, runs, waits = state.jobs, running(state), waiting(state)
    total = len(state.slots)
    begins = before_the_first_that_lacks_room(waits, jobs.least[waits], total - int(jobs.least[runs].sum()))
    rows = np.concatenate([runs, begins])
    workers = jobs.least[rows].copy()
    left = total - int(workers.sum())
    # Ties go to who came first, so that nothing moves while nobody comes or goes.
    queue = [(int(workers[i]) / int(jobs.most[row]), int(row), i) for i, row in enumerate(rows)]
    queue = [entry for entry in queue if entry[0] < 1]
    heapq.heapify(queue)
    while left and queue:
        _, row, i = heapq.heappop(queue)
        workers[i] += 1
        left -= 1
        if workers[i] < jobs.most[row]:
            heapq.heappush(queue, (int(workers[i]) / int(jobs.most[row]), row, i))
    return place(state, rows, workers)
