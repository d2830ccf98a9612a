"""From who is to run, and with how many workers, to decisions: who stays, who gives way, and which slots newcomers get.

Who runs with as many workers as are wanted stays where it is. A gang goes to the host on which the fewest slots stay
free, if one has room for it (best fit: large holes stay for large gangs); otherwise to as few hosts as can be, those
with the most room first.
"""

from __future__ import annotations

import numpy as np

from manyhands.jobs.state import FREE, Decision, Ints, Pause, Resize, Start, State


def place(state: State, rows: Ints, workers: Ints) -> list[Decision]:
    """Decisions that lead to these rows, and no others, running.

    Args:
        rows: distinct rows; those that come first choose first.
        workers: how many each row is to have; together no more than there are slots.
    """
    jobs = state.jobs
    wanted = np.zeros(len(jobs), dtype=np.int64)
    wanted[rows] = workers
    decisions: list[Decision] = [Pause(int(jobs.number[row])) for row in np.flatnonzero(jobs.runs & (wanted == 0))]
    stays = (wanted == jobs.workers) & jobs.runs
    gone = np.append(wanted == 0, True)  # the last is that of FREE
    first = np.where(gone[state.first], FREE, state.first)
    changed = rows[~stays[rows]]
    if not len(changed):
        return decisions
    room = Room(state.slots, first)
    grows = []
    for row in changed[jobs.runs[changed]]:
        own = np.flatnonzero(first == row)
        if wanted[row] < len(own):
            keep = most_together(state.slots, own, int(wanted[row]))
            room.give_back(np.setdiff1d(own, keep))
            decisions.append(Resize(int(jobs.number[row]), tuple(keep.tolist())))
        else:
            grows.append(row)
    for row in changed[~jobs.runs[changed]]:
        decisions.append(Start(int(jobs.number[row]), tuple(room.take(int(wanted[row])).tolist())))
    for row in grows:
        own = np.flatnonzero(first == row)
        more = room.take(int(wanted[row]) - len(own), near=own)
        decisions.append(Resize(int(jobs.number[row]), tuple(np.concatenate([own, more]).tolist())))
    return decisions


def most_together(slots: Ints, own: Ints, count: int) -> Ints:
    """So many of the slots that a job has, on the hosts where it has most of them."""
    hosts = slots[own]
    if (hosts == hosts[:1]).all():
        return own[:count]
    sizes = np.bincount(hosts)
    return np.sort(own[np.lexsort((own, hosts, -sizes[hosts]))][:count])


class Room:
    """The free slots, host by host.

    Args:
        slots: the host of each slot.
        first: the row of the job that has each slot; `FREE` if there is none.
    """

    def __init__(self, slots: Ints, first: Ints) -> None:
        self._slots, self._free = slots, first == FREE
        self._count = np.bincount(slots[self._free], minlength=int(slots.max()) + 1 if len(slots) else 0)

    @property
    def count(self) -> Ints:
        """How many slots are free on every host."""
        return self._count

    def take(self, count: int, near: Ints | None = None) -> Ints:
        """Take so many slots, which must be free, on the hosts of `near`, others of the job, where that is possible."""
        chosen: list[Ints] = []
        if near is not None and len(near):
            for host in np.unique(self._slots[near]):
                part = self._take_on(int(host), min(count, int(self._count[host])))
                chosen.append(part)
                count -= len(part)
        while count:
            fits = self._count >= count
            tightest = int(np.argmin(np.where(fits, self._count, np.iinfo(np.int64).max)))
            host = tightest if fits.any() else int(np.argmax(self._count))
            chosen.append(self._take_on(host, min(count, int(self._count[host]))))
            count -= len(chosen[-1])
        return np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, dtype=np.int64)

    def take_together(self, count: int, near: Ints) -> Ints:
        """Take so many slots of one host that has them: the one with most of `near`, which are free again."""
        has = np.bincount(self._slots[near], minlength=len(self._count))
        fits = np.flatnonzero(self._count >= count)
        return self._take_on(int(fits[np.lexsort((self._count[fits], -has[fits]))[0]]), count, near)

    def give_back(self, slots: Ints) -> None:
        """Let these slots be free again."""
        self._free[slots] = True
        np.add.at(self._count, self._slots[slots], 1)

    def _take_on(self, host: int, count: int, first: Ints | None = None) -> Ints:
        found = np.flatnonzero(self._free & (self._slots == host))
        if first is not None:  # who is there already stays
            found = found[np.argsort(~np.isin(found, first), kind="stable")]
        found = found[:count]
        self._free[found] = False
        self._count[host] -= len(found)
        return found
