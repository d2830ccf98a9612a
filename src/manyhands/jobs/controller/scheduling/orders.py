"""From what jobs are to have to what is to be done about it now: who is launched, told to stop, told to change.

Slots are handed over, never doubled: a job gets those that another leaves only once that one has left, unless both are
meant to share them. Asked again after every event, it goes on from wherever things stand, so a controller that was
killed in the middle loses nothing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from manyhands.jobs.controller.storage.record import Job


@dataclass(frozen=True)
class Launch:
    """Start a job's supervisor, on the job's target."""

    job: int


@dataclass(frozen=True)
class Halt:
    """Have a job's gang end at the next step boundary, with a checkpoint."""

    job: int


@dataclass(frozen=True)
class Change:
    """Have a job's gang go on with the job's target."""

    job: int


@dataclass(frozen=True)
class Adopt:
    """Count a job's target as held: it is other slots of the same hosts, and the gang need not know."""

    job: int


Order = Launch | Halt | Change | Adopt


@dataclass(frozen=True, kw_only=True)
class Alive:
    """How a job's supervisor stands.

    Attributes:
        ready: whether it takes orders.
        busy: whether an order is on the way to it, or not carried out yet.
        told: whether it was told to stop.
        rigid: whether its gang cannot change while it runs, and has to stop and be launched anew.
        unsure: whether its gang may have other slots than is written down.
    """

    ready: bool = True
    busy: bool = False
    told: bool = False
    rigid: bool = False
    unsure: bool = False


def orders(jobs: Sequence[Job], alive: Mapping[int, Alive], hosts: Sequence[str]) -> list[Order]:
    """What is to be done now, for jobs to have their targets.

    Args:
        jobs: jobs that are not over.
        alive: how supervisors stand, by the number of their job; jobs that are not there have none.
        hosts: the host of each slot.
    """
    holders: dict[int, list[Job]] = defaultdict(list)
    for job in jobs:
        for slot in job.held:
            holders[slot].append(job)

    def in_the_way(job: Job) -> list[Job]:
        return [
            other
            for slot in job.target
            for other in holders[slot]
            if other is not job and (slot not in other.target or other.halting)
        ]

    found: list[Order] = []
    stuck: list[Job] = []
    for job in jobs:
        state = alive.get(job.number)
        if state is None:
            if job.target and not in_the_way(job):
                found.append(Launch(job.number))
                for slot in job.target:
                    holders[slot].append(job)
        elif not job.target or job.halting:
            if not state.told:
                found.append(Halt(job.number))
        elif (job.target != job.held or state.unsure) and state.ready and not state.busy:
            alike = Counter(hosts[slot] for slot in job.target) == Counter(hosts[slot] for slot in job.held)
            if state.rigid and job.target != job.held:
                found.append(Halt(job.number))
            elif in_the_way(job):
                stuck.append(job)
            elif alike and not state.unsure:
                found.append(Adopt(job.number))
            else:
                found.append(Change(job.number))
                for slot in job.target:
                    holders[slot].append(job)
    moving = any(state.busy or state.told or not state.ready for state in alive.values())
    if stuck and not found and not moving:  # they wait for each other
        found.append(Halt(stuck[0].number))
    return found
