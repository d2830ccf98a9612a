"""Who holds which slots, since when, and how much of them each job has had."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping

from manyhands.jobs.controller.storage.record import Job
from manyhands.jobs.controller.storage.store import Stay, Store


class Holdings:
    """Which job held which slots when, in the store and in memory."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.stays = store.stays()
        """All stays, in the order in which they began."""
        self._open = {stay.job: stay for stay in self.stays if stay.ended is None}
        self._service: defaultdict[int, float] = defaultdict(float)
        for stay in self.stays:
            if stay.ended is not None:
                self._count(stay, stay.ended)

    def write(self, job: Job) -> None:
        """Write a job down, and that it holds from now on what its record says.

        Raises:
            sqlite3.Error: it cannot be written.
        """
        now = time.time()
        self._store.holds(job, now)
        stay = self._open.pop(job.number, None)
        if stay is not None:
            stay.ended = now
            self._count(stay, now)
        if job.held:
            self._open[job.number] = Stay(job.number, job.held, now, None)
            self.stays.append(self._open[job.number])

    def service(self, now: float) -> Mapping[int, float]:
        """Slot-seconds that jobs have had until now (seconds since the epoch), by number."""
        total = defaultdict(float, self._service)
        for stay in self._open.values():
            total[stay.job] += len(stay.slots) * (now - stay.began)
        return total

    def _count(self, stay: Stay, ended: float) -> None:
        self._service[stay.job] += len(stay.slots) * (ended - stay.began)
