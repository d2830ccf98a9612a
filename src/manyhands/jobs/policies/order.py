"""Who runs, of jobs in the order of their claims."""

from __future__ import annotations

import numpy as np

from manyhands.jobs.state import Floats, Ints, State


def waiting(state: State) -> Ints:
    """Rows of the jobs that wait for slots, in the order of submission."""
    return np.flatnonzero(~state.jobs.runs & ~state.jobs.held)


def running(state: State) -> Ints:
    """Rows of the jobs that run, in the order of submission."""
    return np.flatnonzero(state.jobs.runs & ~state.jobs.held)


def before_the_first_that_lacks_room(rows: Ints, sizes: Ints, room: int) -> Ints:
    """The rows before the first that does not fit, which nobody overtakes.

    Args:
        sizes: how many slots each row needs.
        room: how many slots there are.
    """
    return rows[: int(np.searchsorted(np.cumsum(sizes), room, side="right"))]


def all_that_fit(rows: Ints, sizes: Ints, room: int) -> Ints:
    """The rows that fit, in their order; one that does not fit into what is left is passed over.

    Args:
        sizes: how many slots each row needs.
        room: how many slots there are.
    """
    chosen: list[Ints] = []
    while len(rows) and room > 0:
        together = int(np.searchsorted(np.cumsum(sizes), room, side="right"))
        chosen.append(rows[:together])
        room -= int(sizes[:together].sum())
        rows, sizes = rows[together:], sizes[together:]
        fits = sizes <= room
        rows, sizes = rows[fits], sizes[fits]
    return np.concatenate(chosen) if chosen else rows[:0]


def first_by(claim: Floats, room: int) -> Ints:
    """Indexes of the lowest claims, in their order: enough to fill the room with small jobs, and not many more."""
    enough = room + 64
    if len(claim) <= 2 * enough:
        return np.argsort(claim, kind="stable")
    limit = np.partition(claim, enough)[enough]
    few = np.flatnonzero(claim <= limit)  # all that are as low, so that it does not matter how the partition cut ties
    return few[np.argsort(claim[few], kind="stable")]
