"""What clients ask of a controller: to take a job, to pause or end it, to bring it elsewhere.

A request only says what a job is to have, and is written down; the loop does the rest.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from manyhands.errors import UsageError
from manyhands.jobs.controller.core.books import Books
from manyhands.jobs.controller.storage.record import Job, Status, Wish
from manyhands.jobs.controller.storage.submission import Submission


def submit(books: Books, submission: Submission) -> Job:
    """Take a new job; or find the one that the same request made before.

    Raises:
        UsageError: the cluster can never run it.
    """
    total = books.cluster.size
    if submission.least > total:
        there = ", ".join(f"{name} {len(slots)}" for name, slots in books.cluster.hosts.items())
        raise UsageError(
            f"{submission.name} needs {submission.least} workers at once, and the cluster has {total} slot(s) in "
            f"all: {there}."
        )
    job = books.store.add(submission, time.time())
    return books.jobs.setdefault(job.number, job)


def wish(books: Books, number: int, wanted: Wish) -> Job:
    """Pause, go on with, or cancel a job. One that has failed may be tried again.

    Raises:
        UsageError: there is no such job, it is over, or its record is damaged.
    """
    job = books.job(number)
    if not job.file:
        raise UsageError(f"job {number} cannot be gone on with: {job.error}")
    if job.status is Status.FAILED and wanted is Wish.RUN:
        job.ended, job.losses, job.error = None, 0, ""
    elif job.status.over:
        raise UsageError(f"job {number} ({job.name}) is over: {job.status.value}.")
    job.wish = wanted
    if wanted is not Wish.RUN:
        job.target = ()
    if number not in books.gangs:
        match wanted:
            case Wish.PAUSE:
                job.status = Status.PAUSED
            case Wish.RUN:
                job.status = Status.WAITING
            case Wish.CANCEL:
                job.status, job.ended = Status.CANCELLED, time.time()
    books.store.save(job)
    return job


def move(books: Books, number: int, to: Sequence[str]) -> Job:
    """Bring a job to other hosts, those named first filled first.

    Raises:
        UsageError: there is no such job or host, it does not run, or there is no room.
    """
    job, cluster = books.job(number), books.cluster
    if unknown := [host for host in to if host not in cluster.hosts]:
        raise UsageError(
            f"there is no host {', '.join(unknown)} in this cluster. There are: {', '.join(cluster.hosts)}."
        )
    if not job.target or number not in books.gangs:
        raise UsageError(f"job {number} ({job.name}) has no slots now ({job.status.value}): nothing is to be moved.")
    free = _free(books, job, to)
    if len(free) < len(job.target):
        raise UsageError(
            f"job {number} ({job.name}) has {len(job.target)} worker(s), and {', '.join(to)} has {len(free)} free "
            "slot(s). Pause or move another job first."
        )
    job.target, job.since, job.guest = tuple(sorted(free[: len(job.target)])), time.time(), False
    books.store.save(job)
    return job


def _free(books: Books, job: Job, hosts: Sequence[str]) -> list[int]:
    """Slots of these hosts that no other job has or is to have."""
    taken = {slot for other in books.active() if other is not job for slot in (*other.target, *other.held)}
    live = set(books.cluster.live) - taken
    return [slot for host in hosts for slot in books.cluster.hosts[host] if slot in live]
