"""All that a controller knows: jobs, the gangs that train them, who holds which slots, and the cluster. Data only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from manyhands.errors import UsageError
from manyhands.jobs.controller.cluster import Cluster
from manyhands.jobs.controller.gang import Gang
from manyhands.jobs.controller.holdings import Holdings
from manyhands.jobs.controller.home import Home
from manyhands.jobs.controller.record import Job
from manyhands.jobs.controller.store import Store


class Change(NamedTuple):
    """A gang's slots while it goes from some to others."""

    before: tuple[int, ...]
    target: tuple[int, ...]


@dataclass(kw_only=True)
class Books:
    """What is known, in memory; `store` has on disk what has to survive.

    Attributes:
        jobs: all there ever were, by number.
        gangs: those that live, by the number of their job.
        changing: by number, gangs that were told to change and have not done so yet.
        unsure: numbers of jobs whose gangs may have other slots than is written down: another controller may have told
            them.
    """

    home: Home
    store: Store
    cluster: Cluster
    jobs: dict[int, Job]
    holdings: Holdings
    gangs: dict[int, Gang] = field(default_factory=dict)
    changing: dict[int, Change] = field(default_factory=dict)
    unsure: set[int] = field(default_factory=set)

    @staticmethod
    def open(home: Home, store: Store, cluster: Cluster) -> Books:
        """As a former controller left them; which gangs live is still to be found out."""
        jobs = {job.number: job for job in store.jobs()}
        return Books(home=home, store=store, cluster=cluster, jobs=jobs, holdings=Holdings(store))

    def active(self) -> list[Job]:
        """Jobs that are not over, in the order of submission."""
        return [job for job in self.jobs.values() if not job.status.over]

    def job(self, number: int) -> Job:
        """The job of this number.

        Raises:
            UsageError: there is none.
        """
        if number not in self.jobs:
            raise UsageError(f"there is no job {number}. `manyhands jobs` lists those there are.")
        return self.jobs[number]

    def hosts(self, slots: tuple[int, ...]) -> list[str]:
        """The hosts on which slots are, one for each."""
        return [self.cluster.slots[slot] for slot in slots]
