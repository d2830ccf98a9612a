"""What an engine and the process that it forks workers from say to each other, and what an engine tells an entry."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from manyhands.wire import Codec


@dataclass(frozen=True, kw_only=True)
class Depot:
    """Where processes of all hosts meet and leave state: a port of the supervisor's process."""

    host: str
    """The depot's host, as it is reached from where this is said."""
    port: int
    token: str
    """The token that the depot wants to be known."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where an entry is loaded, and what it finds there."""

    board: int
    """Descriptor of the board (shm/board.py) that its workers write to."""
    slots: tuple[int, int] | None = None
    """Descriptors of the slots for state (shm/slots.py); None on another host than the supervisor's."""
    depot: Depot | None = None
    """The depot; None if all is on one host."""


@dataclass(frozen=True, kw_only=True)
class Meeting:
    """Where processes that are on several hosts connect to each other."""

    name: str
    """The meeting's name at the depot."""
    world: int
    """How many processes meet."""


class Linking(Protocol):
    """A message with which connections come: as descriptors, or as a place to meet."""

    @property
    def meeting(self) -> Meeting | None: ...


# To a template


@dataclass(frozen=True, kw_only=True)
class Serve:
    """End when this process does; said first."""

    supervisor: int


@dataclass(frozen=True, kw_only=True)
class Load:
    """Call an entry."""

    entry: str
    """`module:function`."""
    spec: object
    place: Place


@dataclass(frozen=True, kw_only=True)
class Fork:
    """Fork a worker; its channel and where it prints come along as descriptors."""

    worker: int


# From a template


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What an entry reports.

    Attributes:
        facts: of the job and the machine, for the supervisor.
        cuda_devices: that torch can use there.
        alike: what has to be the same on all hosts, by what it is called.
    """

    facts: object = None
    cuda_devices: int = 0
    alike: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Refused:
    """The entry did not load. `error` is empty if it has printed what there is to say; `code` is the exit code."""

    error: str
    code: int


@dataclass(frozen=True, kw_only=True)
class Started:
    """A worker was forked."""

    worker: int
    pid: int


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A worker is gone, with this exit code or minus the number of the signal that killed it."""

    worker: int
    status: int


@dataclass(frozen=True, kw_only=True)
class Left:
    """Processes that a worker's code had started, and not ended, were ended; of all workers if none is said."""

    worker: int | None
    count: int


SERVE: Codec[Serve] = Codec(Serve)
LOAD: Codec[Load] = Codec(Load)
FORK: Codec[Fork] = Codec(Fork)
LOADING: Codec[Loaded | Refused] = Codec(Loaded | Refused)
FORKING: Codec[Started | Ended | Left] = Codec(Started | Ended | Left)

__all__ = [
    "FORK",
    "FORKING",
    "LOAD",
    "LOADING",
    "SERVE",
    "Depot",
    "Ended",
    "Fork",
    "Left",
    "Linking",
    "Load",
    "Loaded",
    "Meeting",
    "Place",
    "Refused",
    "Serve",
    "Started",
]
