"""A job as the controller knows it, and its life in words."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Wish(StrEnum):
    """What the user wants of a job."""

    RUN = "run"
    PAUSE = "pause"
    CANCEL = "cancel"


class Status(StrEnum):
    """Where a job is in its life. The last three end it; only one that has failed may be tried again."""

    WAITING = "waiting"
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def over(self) -> bool:
        return self in (Status.FINISHED, Status.FAILED, Status.CANCELLED)


@dataclass(kw_only=True)
class Job:
    """What is kept of a job; every field survives the controller.

    Attributes:
        number: the job's number: 1 for the first; never used twice.
        key: the key of the request which submitted it, so that a request sent twice makes one job.
        flags: flags of `manyhands train`, besides workers and hosts.
        least, most: workers that it needs, and workers that it can use.
        submitted, ended: seconds since the epoch.
        target: the slots that it is to have.
        held: the slots that others must not take: more than its own while it changes.
        guest: whether it shares slots that another had first.
        halting: whether it was told to stop, and not by its user.
        since: when its target changed last, in seconds since the epoch.
        losses: how many supervisors it has lost one after another without progress.
        step: the last step that is known to be committed.
        weights: SHA-256 of the final weights.
    """

    number: int
    key: str
    name: str
    file: str
    arguments: list[str]
    cwd: str
    flags: dict[str, str]
    least: int
    most: int
    priority: int
    user: str
    submitted: float
    wish: Wish = Wish.RUN
    status: Status = Status.WAITING
    target: tuple[int, ...] = ()
    held: tuple[int, ...] = ()
    guest: bool = False
    halting: bool = False
    since: float = 0.0
    ended: float | None = None
    losses: int = 0
    step: int = 0
    total_steps: int = 0
    error: str = ""
    weights: str | None = None

    @property
    def kind(self) -> str:
        """The job's file and arguments, as one text: jobs of a kind do the same to a slot."""
        return "\0".join((self.file, *self.arguments))
