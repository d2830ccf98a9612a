"""Let two jobs share slots where both together go further than one after the other.

Alone a job has speed 1. Two that share have speeds a and b, measured for their kinds or guessed, and gain a + b - 1.
Only pairs that gain more than a margin are made; of all ways to pair those that wait with those that run, the one with
the largest total gain (an assignment). Two that turn out to get less done than one would are parted. Who shares gets
slots of its own when there are some, and has to wait again when the policy underneath wants the slots for another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from scipy.optimize import linear_sum_assignment

from manyhands.jobs.policies.order import waiting
from manyhands.jobs.state import FREE, Decision, Floats, Move, Pack, Pause, Resize, Start, State, carried_out

LEAST = 0.25
"""Least share of its speed alone that a job keeps: nobody is slowed down further for another's sake."""
STICKS = 0.05
"""By so much another partner has to be better than the one that a job has: a change costs both some seconds."""


def packing(policy: Callable[[State], list[Decision]], margin: float = 0.1) -> Callable[[State], list[Decision]]:
    """A policy that lets jobs that wait under `policy` share slots with those that run.

    Args:
        margin: what a pair has to gain, in jobs' speeds alone.
    """
    gains = Gains()

    def decide(state: State) -> list[Decision]:
        jobs, shared = state.jobs, np.flatnonzero(state.second != FREE)
        guests, at = np.unique(state.second[shared], return_index=True)
        alone = without_guests(state, guests)
        decisions = {decision.job: decision for decision in policy(alone)}
        partner: dict[int, int] = {}
        for row, host in zip(guests.tolist(), state.first[shared[at]].tolist(), strict=True):
            number = int(jobs.number[row])
            start = decisions.get(number)
            gone = host == FREE or isinstance(decisions.get(int(jobs.number[host])), Pause | Resize | Move)
            if isinstance(start, Start) and gone and set(start.slots) == set(state.slots_of(row).tolist()):
                decisions.pop(number)  # it stays, alone; and is left alone for now
                partner[row] = row
            elif isinstance(start, Start):
                decisions[number] = Move(number, start.slots)
            elif gone:
                decisions[number] = Pause(number)
            else:
                partner[row] = host
        settled = carried_out(alone, list(decisions.values()))
        return [*decisions.values(), *pairs(settled, set(decisions), partner, margin, gains)]

    return decide


def without_guests(state: State, guests: np.ndarray) -> State:
    """The state as if those who share slots as the second waited."""
    workers = state.jobs.workers.copy()
    workers[guests] = 0
    return replace(state, jobs=replace(state.jobs, workers=workers), second=np.full_like(state.second, FREE))


def pairs(
    state: State, decided: set[int], partner: Mapping[int, int], margin: float, gains_of: Gains
) -> list[Decision]:
    """Whom to pack with whom, and whom to part.

    Args:
        state: the state without guests, after what was decided.
        decided: numbers of the jobs that this was about: one decision is enough.
        partner: the row of the job whose slots a guest shares, by the guest's; its own, if it has them alone now.
        margin: what a new pair has to gain, in jobs' speeds alone.
    """
    jobs = state.jobs
    alone = [row for row, host in partner.items() if row == host]
    partner = {row: host for row, host in partner.items() if row != host}
    runs = np.setdiff1d(np.flatnonzero(jobs.runs), alone)
    waits = np.setdiff1d(waiting(state), [*alone, *partner])
    waits = waits[~np.isin(jobs.number[waits], list(decided))]
    kinds, kind = np.unique(jobs.kind, return_inverse=True)
    table = gains_of(state.pairs, tuple(kinds.tolist()))
    found: list[Decision] = []
    for size in np.unique(jobs.workers[runs]):
        hosts = runs[jobs.workers[runs] == size]
        own = np.array([row for row, host in partner.items() if jobs.workers[host] == size], dtype=np.int64)
        others = waits[jobs.least[waits] == size][: 4 * len(hosts)]
        guests = np.concatenate([own, others])
        gains = table[np.ix_(kind[hosts], kind[guests])]
        worth = np.where(gains > margin, gains, 0.0)
        for column, row in enumerate(own.tolist()):
            there = int(np.flatnonzero(hosts == partner[row])[0])
            worth[there, column] = gains[there, column] + STICKS if gains[there, column] > 0 else 0.0
        chosen = {
            int(guests[j]): int(hosts[i])
            for i, j in zip(*linear_sum_assignment(worth, maximize=True), strict=True)
            if worth[i, j] > 0
        }
        found += [Pause(int(jobs.number[row])) for row in own.tolist() if row not in chosen]
        for row, host in chosen.items():
            if partner.get(row) != host:
                found.append(Pack(int(jobs.number[row]), tuple(np.flatnonzero(state.first == host).tolist())))
    return found


class Gains:
    """What jobs of two kinds get done together beyond what one alone would, as a table: a row for each host's kind, a
    column for each guest's. A gain is below 0 if nobody knows it, or if one of the two would hardly get on. The table
    is made anew only for other pairs or kinds than the last time."""

    def __init__(self) -> None:
        self._of: tuple[Mapping[tuple[int, int], tuple[float, float]] | None, tuple[int, ...]] = (None, ())
        self._table = np.zeros((0, 0))

    def __call__(self, pairs: Mapping[tuple[int, int], tuple[float, float]], kinds: tuple[int, ...]) -> Floats:
        if self._of[0] is not pairs or self._of[1] != kinds:
            size = len(kinds)
            self._table = np.array([self._gain(pairs, h, g) for h in kinds for g in kinds]).reshape(size, size)
            self._of = pairs, kinds
        return self._table

    @staticmethod
    def _gain(pairs: Mapping[tuple[int, int], tuple[float, float]], host: int, guest: int) -> float:
        speeds = pairs.get((host, guest)) or pairs.get((guest, host), (0.0, 0.0))
        return sum(speeds) - 1 if min(speeds) >= LEAST else -1.0
