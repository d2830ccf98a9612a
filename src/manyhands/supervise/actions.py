"""What a supervisor is to do, as data: `decide` and `hear` say it, the supervisor carries it out."""

from __future__ import annotations

from dataclasses import dataclass

from manyhands.gang import Order
from manyhands.gang.orders import Build, Check, HandOver, Join, Link


@dataclass(frozen=True, kw_only=True)
class Start:
    """Fork a worker on a host, and have it build."""

    worker: int
    host: str
    build: Build


@dataclass(frozen=True, kw_only=True)
class Send:
    """Tell a member something."""

    worker: int
    order: Order


@dataclass(frozen=True, kw_only=True)
class Connect:
    """Connect members with each other, and tell each its order."""

    workers: tuple[int, ...]
    orders: tuple[Join | Check | HandOver | Link, ...]


@dataclass(frozen=True, kw_only=True)
class Kill:
    """End a worker at once."""

    worker: int


@dataclass(frozen=True, kw_only=True)
class WriteCheckpoint:
    """Make the state that lies in a buffer durable; `heard.written` hears how that went."""

    buffer: int
    step: int


@dataclass(frozen=True, kw_only=True)
class Rewind:
    """States of later steps than this are wrong, and so is what is written down of those steps: forget them."""

    step: int


@dataclass(frozen=True, kw_only=True)
class Tell:
    """Say something to the user, or to the log alone."""

    text: str
    how: str = "note"
    """How it is said: `note`, `aside` (not when the user wants quiet) or `log`."""


@dataclass(frozen=True, kw_only=True)
class Membership:
    """Write down that the gang has changed."""

    change: str
    workers: int
    event: str


@dataclass(frozen=True, kw_only=True)
class ForgetPace:
    """Forget what steps took: it says nothing of the next ones."""


Action = Start | Send | Connect | Kill | WriteCheckpoint | Rewind | Tell | Membership | ForgetPace
