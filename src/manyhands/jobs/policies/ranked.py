"""Policies that take slots away from who has the lower claim: by priority, by service, by users' shares.

All of them rank the jobs, and let those run that come first; who does not fit into what is left is passed over, and so
the next that does uses it. A job that has slots keeps them before another of the same claim.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from manyhands.jobs.policies.order import all_that_fit, first_by
from manyhands.jobs.policies.place import place
from manyhands.jobs.state import Decision, Floats, Ints, State


def priority(state: State) -> list[Decision]:
    """Higher priority first; among equals, who came first."""
    jobs = state.jobs
    return _run_first(state, lambda rows: -jobs.priority[rows].astype(float))


def least_attained_service(*levels: float) -> Callable[[State], list[Decision]]:
    """Who has had the least goes first, by levels of slot-seconds; within one, who came first.

    Short jobs end in the first level, without anybody knowing how long they are; levels keep jobs of similar service
    from taking slots from each other all the time. Source: Gu et al., Tiresias, NSDI 2019 (discretised 2D-LAS).

    Args:
        levels: limits between the levels, in slot-seconds, ascending.
    """
    limits = np.array(sorted(levels))

    def policy(state: State) -> list[Decision]:
        service = state.jobs.service
        return _run_first(state, lambda rows: np.searchsorted(limits, service[rows], side="right").astype(float))

    return policy


def fair(state: State) -> list[Decision]:
    """Users get slots in proportion to their shares, as far as they ask for them; each one's jobs in order.

    A job's claim is what its user has when it runs, over the user's share: filling up by that claim is weighted max-min
    fairness in whole gangs.
    """
    jobs = state.jobs

    def claims(rows: Ints) -> Floats:
        users = jobs.user[rows]
        by_user = np.lexsort((~jobs.runs[rows], users))  # stable: those that run first, then in order
        sizes = jobs.least[rows][by_user]
        totals = np.cumsum(sizes)
        starts = np.flatnonzero(np.diff(users[by_user], prepend=-1))
        before = np.repeat(totals[starts] - sizes[starts], np.diff(np.append(starts, len(rows))))
        has = np.empty(len(rows))
        has[by_user] = totals - before
        weights = np.array([state.shares.get(int(user), 1.0) for user in np.unique(users)])
        return has / weights[np.searchsorted(np.unique(users), users)]

    return _run_first(state, claims)


def _run_first(state: State, claims: Callable[[Ints], Floats]) -> list[Decision]:
    """Let those run whose claims are the lowest numbers."""
    jobs = state.jobs
    rows = np.flatnonzero(~jobs.held)
    if not len(rows):
        return place(state, rows, rows)
    claim = claims(rows)
    _, rank = np.unique(claim, return_inverse=True)
    tie = (2.0 * rank + ~jobs.runs[rows]).astype(np.float64)  # among equals, those that run
    best = rows[first_by(tie, jobs.least[rows], len(state.slots))]
    chosen = all_that_fit(best, jobs.least[best], len(state.slots))
    return place(state, chosen, jobs.least[chosen])
