"""Policies that take slots away from who has the lower claim: by priority, by service, by users' shares.

All of them rank the jobs, and let those run that come first; who does not fit into what is left is passed over, and so
the next that does uses it. A job that has slots keeps them before another of the same claim, until that one has waited
for `PATIENCE`: so a large gang gets its turn, although small ones always find room. By service, who has waited for that
and longer than it has run goes first of all, since new jobs may come for ever.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import pairwise

import numpy as np

from manyhands.jobs.policies.order import all_that_fit, first_by
from manyhands.jobs.policies.place import place
from manyhands.jobs.state import Decision, Floats, Ints, State

PATIENCE = 1800.0
"""Seconds after which a job that waits goes before those of the same claim that run."""


def priority(state: State) -> list[Decision]:
    """Jobs of higher priority run first; among equals, those that came first."""
    jobs = state.jobs
    return _run_first(state, lambda rows: -jobs.priority[rows].astype(np.float64))


def least_attained_service(*levels: float) -> Callable[[State], list[Decision]]:
    """A policy by which who has had the least goes first, by levels of slot-seconds; within one, who came first.

    Short jobs end in the first level, without anybody knowing how long they are; levels keep jobs of similar service
    from taking slots from each other all the time. Source: Gu et al., Tiresias, NSDI 2019 (discretised 2D-LAS).

    Args:
        levels: limits between the levels, in slot-seconds, ascending.
    """
    limits = np.array(sorted(levels))

    def policy(state: State) -> list[Decision]:
        jobs = state.jobs

        def claims(rows: Ints) -> Floats:
            level = np.searchsorted(limits, jobs.service[rows], side="right").astype(np.float64)
            ran = jobs.service[rows] / jobs.least[rows]
            starves = ~jobs.runs[rows] & (jobs.since[rows] > np.maximum(PATIENCE, ran))
            return np.where(starves, -1.0, level)

        return _run_first(state, claims)

    return policy


def fair(state: State) -> list[Decision]:
    """Users get slots in proportion to their shares, as far as they ask for them; each one's jobs in order.

    The next job is that of the user who has least for its share (weighted max-min fairness, in whole gangs), and fits.
    """
    jobs, room = state.jobs, len(state.slots)
    rows = np.flatnonzero(~jobs.held)
    order = _order(state, rows)
    by_user = np.lexsort((order, jobs.user[rows]))
    rows, order = rows[by_user], order[by_user]
    users, begins = np.unique(jobs.user[rows], return_index=True)
    sizes, orders = jobs.least[rows].tolist(), order.tolist()  # a loop in Python is faster over lists
    bounds = pairwise([*begins.tolist(), len(rows)])
    poorest = [(0.0, orders[at], user, at, end) for user, (at, end) in zip(users.tolist(), bounds, strict=True)]
    heapq.heapify(poorest)
    has = dict.fromkeys(users.tolist(), 0)
    chosen: list[int] = []
    while poorest and room:
        _, _, user, at, end = heapq.heappop(poorest)
        while at < end and sizes[at] > room:  # nor will it fit later: room only shrinks
            at += 1
        if at == end:
            continue
        chosen.append(at)
        room -= sizes[at]
        has[user] += sizes[at]
        if at + 1 < end:
            heapq.heappush(poorest, (has[user] / state.shares.get(user, 1.0), orders[at + 1], user, at + 1, end))
    best = rows[chosen]
    return place(state, best, jobs.least[best])


def _order(state: State, rows: Ints) -> Floats:
    """What orders equals, the lowest first: who has waited for too long, who runs, who waits."""
    jobs = state.jobs
    return np.where(jobs.runs[rows], 0.0, np.where(jobs.since[rows] > PATIENCE, -1.0, 1.0))


def _run_first(state: State, claims: Callable[[Ints], Floats]) -> list[Decision]:
    """Let those run whose claims are the lowest numbers."""
    jobs, total = state.jobs, len(state.slots)
    rows = np.flatnonzero(~jobs.held)
    if not len(rows):
        return place(state, rows, rows)
    claim = 4.0 * claims(rows) + _order(state, rows)
    best = rows[first_by(claim, total)]
    chosen = all_that_fit(best, jobs.least[best], total)
    if jobs.least[chosen].sum() < total and len(best) < len(rows):  # those were too large: look at all
        best = rows[np.argsort(claim, kind="stable")]
        chosen = all_that_fit(best, jobs.least[best], total)
    return place(state, chosen, jobs.least[chosen])
