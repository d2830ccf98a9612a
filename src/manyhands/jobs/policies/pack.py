"""Let two jobs share slots where both together go further than one after the other.

Alone a job has speed 1. Two that share have speeds a and b, measured for their kinds, and gain a + b - 1. Only pairs
that were measured and gain more than a margin are made; of all ways to pair those that wait with those that run, the
one with the largest total gain (an assignment). Who shares gets slots of its own when there are some, and has to wait
again when the policy underneath wants the slots for another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy.optimize import linear_sum_assignment

from manyhands.jobs.policies.order import waiting
from manyhands.jobs.state import FREE, Decision, Move, Pack, Pause, Resize, Start, State, carried_out

LEAST = 0.4
"""Of its speed alone: nobody is slowed down further for another's sake."""


def packing(policy: Callable[[State], list[Decision]], margin: float = 0.1) -> Callable[[State], list[Decision]]:
    """A policy that lets jobs that wait under `policy` share slots with those that run."""

    def decide(state: State) -> list[Decision]:
        jobs, guests = state.jobs, np.unique(state.second[state.second != FREE])
        alone = without_guests(state, guests)
        decisions = {decision.job: decision for decision in policy(alone)}
        stay = []
        for row in guests:
            number, host = int(jobs.number[row]), int(state.first[state.slots_of(int(row))[0]])
            start = decisions.get(number)
            gone = host == FREE or isinstance(decisions.get(int(jobs.number[host])), Pause | Resize | Move)
            if isinstance(start, Start) and gone and set(start.slots) == set(state.slots_of(int(row)).tolist()):
                del decisions[number]  # it stays, alone
                stay.append((row, row))
            elif isinstance(start, Start):
                decisions[number] = Move(number, start.slots)
            elif gone:
                decisions[number] = Pause(number)
            else:
                stay.append((host, row))
        settled = carried_out(alone, list(decisions.values()))
        return [*decisions.values(), *pairs(settled, set(decisions), np.array(stay, dtype=np.int64), margin)]

    return decide


def without_guests(state: State, guests: np.ndarray) -> State:
    """The moment as if those who share as the second waited."""
    workers = state.jobs.workers.copy()
    workers[guests] = 0
    return replace(state, jobs=replace(state.jobs, workers=workers), second=np.full_like(state.second, FREE))


def pairs(state: State, decided: set[int], taken: np.ndarray, margin: float) -> list[Decision]:
    """Whom to pack with whom.

    Args:
        state: without guests, after what was decided.
        decided: numbers of the jobs that this was about: one decision is enough.
        taken: rows of jobs that have a guest, each with that guest's.
    """
    if not state.pairs:
        return []
    jobs = state.jobs
    everybody = np.arange(len(jobs))
    runs = np.flatnonzero(jobs.runs & ~np.isin(everybody, taken))
    waits = waiting(state)
    waits = waits[~np.isin(waits, taken) & ~np.isin(jobs.number[waits], list(decided))]
    kinds, kind = np.unique(jobs.kind, return_inverse=True)
    table = np.array([[gain(state, int(h), int(g)) for g in kinds] for h in kinds])
    found: list[Decision] = []
    for size in np.intersect1d(jobs.workers[runs], jobs.least[waits]):
        hosts = runs[jobs.workers[runs] == size]
        guests = waits[jobs.least[waits] == size][: 4 * len(hosts)]
        gains = table[np.ix_(kind[hosts], kind[guests])]
        for i, j in zip(*linear_sum_assignment(np.where(gains > margin, gains, 0.0), maximize=True), strict=True):
            if gains[i, j] > margin:
                slots = np.flatnonzero(state.first == hosts[i])
                found.append(Pack(int(jobs.number[guests[j]]), tuple(slots.tolist())))
    return found


def gain(state: State, host: int, guest: int) -> float:
    """What jobs of two kinds get done together beyond what one alone would; below 0 if nobody knows, or if one of them
    would hardly get on."""
    speeds = state.pairs.get((host, guest)) or state.pairs.get((guest, host), (0.0, 0.0))
    return sum(speeds) - 1 if min(speeds) >= LEAST else -1.0
