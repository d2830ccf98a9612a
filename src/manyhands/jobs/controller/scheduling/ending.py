"""What becomes of a job whose supervisor is gone: decided from what it left, and done by nobody here."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import NamedTuple

from manyhands.jobs.controller.processes.remains import Result
from manyhands.jobs.controller.storage.record import Job, Status, Wish

LOSSES = 5
"""A job that loses so many supervisors one after another, without a step between them, has failed."""


class Verdict(NamedTuple):
    """What becomes of a job whose supervisor is gone.

    Attributes:
        error: why the job failed; None leaves what is known.
        losses: supervisors that the job has lost, as `Job.losses` counts them.
        pause: whether the job was stopped in its directory, by its user, who wants it to stay so.
    """

    status: Status
    losses: int
    error: str | None = None
    pause: bool = False


def verdict(job: Job, result: Result | str, code: int | None, others: Collection[str], words: str) -> Verdict:
    """What becomes of a job whose supervisor is gone.

    Args:
        job: as it was while it ran.
        result: the result of its run; or in words, why the job cannot be gone on with.
        code: the supervisor's exit code; None if it was not a child of this controller.
        others: the hosts that the job had besides this machine.
        words: what the supervisor said last.
    """
    if isinstance(result, str):
        if job.wish is Wish.CANCEL:
            return Verdict(Status.CANCELLED, job.losses)
        return Verdict(Status.FAILED, job.losses, result)
    status = result.status
    if status == "finished" and result.durable_step >= result.steps:
        return Verdict(Status.FINISHED, job.losses, "")
    if job.wish is Wish.CANCEL:
        return Verdict(Status.CANCELLED, job.losses)
    if status == "failed" and not any(_names(result.error, host) for host in others):
        return Verdict(Status.FAILED, job.losses, result.error)
    if status == "stopped" or job.halting:
        pauses = job.wish is Wish.PAUSE or not job.halting
        return Verdict(Status.PAUSED if pauses else Status.WAITING, job.losses, pause=not job.halting)
    if code in (1, 2) and status != "failed":
        return Verdict(Status.FAILED, job.losses, words or f"its supervisor ended with code {code}")
    losses = 1 if result.steps > job.step else job.losses + 1
    if losses >= LOSSES:
        return Verdict(Status.FAILED, losses, f"its supervisor was lost {losses} times without a step. {words}")
    return Verdict(Status.WAITING, losses)


def _names(text: str, host: str) -> bool:
    """Whether a text speaks of a host: not of one whose name only contains its own."""
    return re.search(rf"(?<![\w.-]){re.escape(host)}(?![\w-]|\.\w)", text) is not None
