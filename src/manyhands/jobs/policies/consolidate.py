"""Bring a job's workers together where that pays for the move.

A gang over several hosts goes at `spread` of its speed. What it will still need is guessed by what it has had (a job
that has run for long is likely to run for long). Moving it saves (1 - spread) of that, and costs a pause.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from manyhands.jobs.policies.place import Room
from manyhands.jobs.state import Decision, Move, State


def consolidating(
    policy: Callable[[State], list[Decision]], pause: float = 5.0, margin: float = 2.0
) -> Callable[[State], list[Decision]]:
    """A policy that moves jobs together when `policy` has nothing to decide.

    Args:
        pause: seconds that a move takes.
        margin: how many times over a move has to pay.
    """

    def decide(state: State) -> list[Decision]:
        decisions = policy(state)
        return decisions or moves(state, pause, margin)

    return decide


def moves(state: State, pause: float, margin: float) -> list[Decision]:
    """The moves that pay, those that save most first; `pause` and `margin` as for `consolidating`."""
    jobs = state.jobs
    candidates = np.flatnonzero(jobs.runs & (jobs.spread < 1) & ~jobs.held)
    saves = (1 - jobs.spread[candidates]) * jobs.service[candidates] / np.maximum(1, jobs.workers[candidates])
    room, found = Room(state.slots, state.first), list[Decision]()
    shared = np.isin(np.arange(len(jobs)), state.first[state.second >= 0])
    for row in candidates[np.argsort(-saves, kind="stable")]:
        own = np.flatnonzero(state.first == row)
        count = len(own)
        saved = (1 - jobs.spread[row]) * jobs.service[row] / max(1, count)
        if saved <= margin * pause:
            break
        if count == 0 or shared[row] or len(np.unique(state.slots[own])) == 1:
            continue
        there = room.count + np.bincount(state.slots[own], minlength=len(room.count))
        if not (there >= count).any():
            continue
        room.give_back(own)
        slots = room.take_together(count, near=own)
        found.append(Move(int(jobs.number[row]), tuple(slots.tolist())))
    return found
