"""All that a controller knows: jobs, the gangs that train them, who holds which slots, and the cluster. Data only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from manyhands.errors import UsageError
from manyhands.jobs.controller.core.cluster import Cluster
from manyhands.jobs.controller.processes.gang import Gang
from manyhands.jobs.controller.storage.holdings import Holdings
from manyhands.jobs.controller.storage.home import Home
from manyhands.jobs.controller.storage.record import Job
from manyhands.jobs.controller.storage.store import Store


class Change(NamedTuple):
    """A gang's slots while it goes from some to others."""

    before: tuple[int, ...]
    target: tuple[int, ...]


@dataclass(kw_only=True)
class Books:
    """What is known, in memory; `store` has on disk what has to survive.

    Attributes:
        jobs: all jobs that there ever were, by number.
        gangs: gangs that live, by the number of their job.
        changing: gangs that were told to change and have not done so yet, by the number of their job.
        unsure: numbers of jobs whose gangs may have other slots than is written down: another controller may have told
            them.
        doomed: why a job has failed whose gang has not ended yet, by number.
        unwritten: numbers of jobs of which something could not be written down.
    """

    home: Home
    store: Store
    cluster: Cluster
    jobs: dict[int, Job]
    holdings: Holdings
    gangs: dict[int, Gang] = field(default_factory=dict)
    changing: dict[int, Change] = field(default_factory=dict)
    unsure: set[int] = field(default_factory=set)
    doomed: dict[int, str] = field(default_factory=dict)
    unwritten: set[int] = field(default_factory=set)

    @staticmethod
    def open(home: Home, store: Store, cluster: Cluster) -> Books:
        """The books as a former controller left them; which gangs live is still to be found out.

        Raises:
            sqlite3.Error: the database cannot be read.
        """
        jobs = {job.number: job for job in store.jobs()}
        for job in jobs.values():  # slots that were forgotten are nobody's
            job.target, job.held = _known(job.target, cluster), _known(job.held, cluster)
        holdings = Holdings(store)
        for stay in holdings.stays:
            stay.slots = _known(stay.slots, cluster)
        return Books(home=home, store=store, cluster=cluster, jobs=jobs, holdings=holdings)

    def active(self) -> list[Job]:
        """Jobs that are not over, in the order of submission."""
        return [job for job in self.jobs.values() if not job.status.over]

    def job(self, number: int) -> Job:
        """The job of this number.

        Raises:
            UsageError: there is no such job.
        """
        if number not in self.jobs:
            raise UsageError(f"there is no job {number}. `manyhands jobs` lists those there are.")
        return self.jobs[number]

    def hosts(self, slots: tuple[int, ...]) -> list[str]:
        """The hosts on which these slots are, one entry for each slot."""
        return [self.cluster.slots[slot] for slot in slots]

    def write_again(self) -> None:
        """Write down what could not be written before.

        Raises:
            sqlite3.Error: it still cannot be.
        """
        for number in list(self.unwritten):
            self.holdings.write(self.jobs[number])
            self.unwritten.discard(number)


def _known(slots: tuple[int, ...], cluster: Cluster) -> tuple[int, ...]:
    return tuple(slot for slot in slots if slot < len(cluster.slots))
