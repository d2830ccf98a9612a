"""A job as the controller knows it, and its life in words."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from manyhands.errors import UsageError


class Wish(StrEnum):
    """What the user wants of a job."""

    RUN = "run"
    PAUSE = "pause"
    CANCEL = "cancel"


class Status(StrEnum):
    """Where a job is in its life. The last three are for ever."""

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
        number: 1 for the first; never used twice.
        key: that of the request which submitted it, so that a request sent twice makes one job.
        flags: of `manyhands train`, besides workers and hosts.
        least, most: workers.
        target: the slots that it is to have; `held`: those that others must not take, which is more while it changes.
        guest: it shares slots that another had first.
        halting: it was told to stop, and not by its user.
        since: when target changed last.
        losses: of its supervisor, one after another without progress; `step`: the last one known.
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
        """Jobs of a kind do the same to a slot."""
        return "\0".join((self.file, *self.arguments))


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What a client says of a new job, checked."""

    key: str
    file: str
    arguments: list[str]
    cwd: str
    name: str
    user: str
    least: int
    most: int
    priority: int = 0
    flags: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def read(data: dict[str, Any]) -> Submission:
        """
        Raises:
            UsageError: a field is missing or of another kind.
        """
        try:
            submission = Submission(**data)
        except TypeError as error:
            raise UsageError(f"a job cannot be submitted like this: {error}") from None
        texts = (submission.key, submission.file, submission.cwd, submission.name, submission.user)
        lists = (submission.arguments, list(submission.flags.values()))
        numbers = (submission.least, submission.most, submission.priority)
        if not (
            all(isinstance(text, str) for text in (*texts, *lists[0], *lists[1]))
            and all(isinstance(number, int) for number in numbers)
        ):
            raise UsageError("a job cannot be submitted like this: a field is of the wrong kind.")
        if not 1 <= submission.least <= submission.most:
            raise UsageError(
                f"--workers {submission.least}:{submission.most}: write N, or MIN:MAX with 1 <= MIN <= MAX."
            )
        return submission
