"""What can be asked of a live run through its directory's socket, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from manyhands.wire import Codec


@dataclass(frozen=True)
class Show:
    """Say how the run stands: `Status`."""


@dataclass(frozen=True)
class Watch:
    """Say how the run stands, now and whenever that changes, until it ends: many a `Status`."""


@dataclass(frozen=True)
class Stop:
    """End the run at its next step boundary, with a checkpoint."""


@dataclass(frozen=True)
class ShareSlots:
    """Share the workers' slots with another job from now on.

    Attributes:
        way: one of plan/sharing.py; None: share no more.
        files: a slot's file for every worker.
    """

    way: str | None
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Resize:
    """Go on with another gang from the next step boundary on. What is None stays as it is; the texts are those of the
    command line's options."""

    workers: int | None = None
    layout: str | None = None
    sync: str | None = None
    hosts: str | None = None
    server_hosts: str | None = None


Command = Show | Watch | Stop | ShareSlots | Resize


@dataclass(frozen=True)
class Process:
    """A member of the gang: its rank among the workers, or among the servers."""

    rank: int
    pid: int
    host: str


@dataclass(frozen=True)
class Status:
    """How a live run stands.

    Attributes:
        status: `running` or `ending`.
        step: committed steps.
        loss: of the last one.
        at: when that was committed, in seconds of the supervisor's monotonic clock.
        profile: which part of a step's time went where.
        target_workers: how many are wanted.
        resizes: how many were accepted.
        settled: the gang is the one that is wanted.
        generation: which gang it is, counted from the run's start.
        recoveries: how often training went on after a loss.
        check: whether the gang trains what one worker would, in words; empty: nothing was there to check, or it was
            not done yet.
        supervisor: its process.
    """

    status: str
    step: int
    total_steps: int
    loss: float | None
    at: float | None
    profile: Mapping[str, float]
    workers: tuple[Process, ...]
    servers: tuple[Process, ...]
    target_workers: int
    resizes: int
    settled: bool
    generation: int
    recoveries: int
    check: str
    supervisor: int


@dataclass(frozen=True)
class Done:
    """What was asked is done, or will be at the next step boundary.

    Attributes:
        resizes: how many the run has accepted, this one included.
    """

    resizes: int = 0


@dataclass(frozen=True)
class Refused:
    """What was asked cannot be done; the run goes on as it is."""

    error: str


Answer = Status | Done | Refused

COMMANDS: Codec[Command] = Codec(Command)
ANSWERS: Codec[Answer] = Codec(Answer)
