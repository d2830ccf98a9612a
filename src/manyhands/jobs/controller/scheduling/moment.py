"""The jobs of a controller as policies see them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from manyhands.jobs.controller.storage.record import Job, Wish
from manyhands.jobs.state import FREE, Decision, Jobs, Pack, Pause, State


def moment(
    now: float,
    jobs: Sequence[Job],
    service: Mapping[int, float],
    live: Sequence[int],
    hosts: Sequence[str],
    shares: Mapping[str, float],
    spread: Mapping[int, float],
    pairs: Mapping[tuple[str, str], tuple[float, float]],
) -> State:
    """The jobs of a controller as a policy sees them at a moment.

    Args:
        now: seconds since the epoch.
        jobs: jobs that are not over, in the order of submission, with targets among the live slots. Those that need
            more slots than are live are left out.
        service: slot-seconds that jobs have had, by number.
        live: slots that are there; the state counts only these.
        hosts: the host of each slot.
        shares: weights of users, by name.
        spread: the speed of jobs on several hosts over that on one, by number, where it is known.
        pairs: speeds of two jobs that share slots, by their kinds.
    """
    jobs = [job for job in jobs if job.least <= len(live)]
    users = sorted({job.user for job in jobs})
    kinds = sorted({job.kind for job in jobs})
    names = list(dict.fromkeys(hosts))
    place = {slot: index for index, slot in enumerate(live)}
    first, second = np.full(len(live), FREE), np.full(len(live), FREE)
    for row, job in enumerate(jobs):
        (second if job.guest else first)[[place[slot] for slot in job.target]] = row
    known = {(kinds.index(a), kinds.index(b)): speeds for (a, b), speeds in pairs.items() if {a, b} <= set(kinds)}
    return State(
        now=now,
        jobs=Jobs(
            number=_ints(job.number for job in jobs),
            user=_ints(users.index(job.user) for job in jobs),
            submitted=np.array([job.submitted for job in jobs], dtype=np.float64),
            least=_ints(job.least for job in jobs),
            most=_ints(job.most for job in jobs),
            priority=_ints(job.priority for job in jobs),
            service=np.array([service.get(job.number, 0.0) for job in jobs], dtype=np.float64),
            workers=_ints(len(job.target) for job in jobs),
            since=np.array([max(0.0, now - job.since) for job in jobs], dtype=np.float64),
            held=np.array([job.wish is Wish.PAUSE for job in jobs], dtype=np.bool_),
            kind=_ints(kinds.index(job.kind) for job in jobs),
            spread=np.array([spread.get(job.number, 1.0) for job in jobs], dtype=np.float64),
        ),
        slots=_ints(names.index(hosts[slot]) for slot in live),
        first=first,
        second=second,
        shares={user: shares[name] for user, name in enumerate(users) if name in shares},
        pairs=known,
    )


def take(decisions: Sequence[Decision], jobs: Mapping[int, Job], live: Sequence[int], now: float) -> list[Job]:
    """Give jobs the targets that a policy has decided; returns the jobs that this changed.

    Args:
        jobs: all jobs, by number.
        live: slots that were there, as `moment` had them: decisions count only these.
        now: seconds since the epoch.
    """
    changed = []
    for decision in decisions:
        job = jobs[decision.job]
        job.target = () if isinstance(decision, Pause) else tuple(sorted(live[slot] for slot in decision.slots))
        job.guest = isinstance(decision, Pack)
        job.since = now
        changed.append(job)
    return changed


def _ints(values: Iterable[int]) -> np.ndarray:
    return np.array(list(values), dtype=np.int64)
