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
    """Start its supervisor, with its target."""

    job: int


@dataclass(frozen=True)
class Halt:
    """Have it end at the next step boundary, with a checkpoint."""

    job: int


@dataclass(frozen=True)
class Change:
    """Have its gang go on with its target."""

    job: int


@dataclass(frozen=True)
class Adopt:
    """Its gang need not know: other slots of the same hosts."""

    job: int


Order = Launch | Halt | Change | Adopt


@dataclass(frozen=True, kw_only=True)
class Alive:
    """A job's supervisor.

    Attributes:
        ready: it takes orders.
        busy: one is on the way, or not carried out yet.
        told: to stop.
        rigid: it cannot change while it runs: it has to stop and be launched anew.
        unsure: what it has may be something else than what is written down.
    """

    ready: bool = True
    busy: bool = False
    told: bool = False
    rigid: bool = False
    unsure: bool = False


def orders(jobs: Sequence[Job], alive: Mapping[int, Alive], hosts: Sequence[str]) -> list[Order]:
    """What to do now.

    Args:
        jobs: that are not over.
        alive: by number, for those that have a supervisor.
        hosts: by slot.
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
