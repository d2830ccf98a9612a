"""First in, first out, with gangs: who waits longest is next, and free slots are kept for it until they are enough.

So a large gang is never overtaken, at the price of slots that stay idle while it waits.
"""

from __future__ import annotations

import numpy as np

from manyhands.jobs.policies.order import before_the_first_that_lacks_room, running, waiting
from manyhands.jobs.policies.place import place
from manyhands.jobs.state import Decision, State


def fifo(state: State) -> list[Decision]:
    """Jobs that run stay; those that wait start in the order of submission, until one lacks room."""
    jobs, runs, waits = state.jobs, running(state), waiting(state)
    room = len(state.slots) - int(jobs.workers[runs].sum())
    begins = before_the_first_that_lacks_room(waits, jobs.least[waits], room)
    rows = np.concatenate([runs, begins])
    return place(state, rows, np.concatenate([jobs.workers[runs], jobs.least[begins]]))
