"""What a supervisor, the guests on other hosts, and the depot say to each other."""

from __future__ import annotations

from dataclasses import dataclass

from manyhands.engine.engine import Exited, Printed, Said
from manyhands.engine.messages import Loaded, Started
from manyhands.shm import Held
from manyhands.wire import Codec, Data

# To a guest


@dataclass(frozen=True, kw_only=True)
class Lend:
    """An agent's order to a guest: serve the supervisor whose connection comes along."""

    token: str


@dataclass(frozen=True, kw_only=True)
class AskClock:
    """Say what time it is on the guest's host."""


@dataclass(frozen=True, kw_only=True)
class Open:
    """Load the entry."""

    entry: str
    spec: object
    depot: int
    """The port of the depot, on the host that this comes from."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """Fork a worker."""

    worker: int


@dataclass(frozen=True, kw_only=True)
class Tell:
    """Pass a message on to a worker."""

    worker: int
    message: Data


@dataclass(frozen=True, kw_only=True)
class Connect:
    """Link workers of that host with each other, and give each its message."""

    workers: tuple[int, ...]
    messages: tuple[Data, ...]


@dataclass(frozen=True, kw_only=True)
class Stacks:
    """Have a worker print the stacks of its threads."""

    worker: int


@dataclass(frozen=True, kw_only=True)
class Kill:
    """End a worker at once."""

    worker: int


Order = AskClock | Open | Start | Tell | Connect | Stacks | Kill
LEND: Codec[Lend] = Codec(Lend)
ORDERS: Codec[Order] = Codec(Order)

# From a guest; what it passes on are an engine's events


@dataclass(frozen=True, kw_only=True)
class Clock:
    """The monotonic time on the guest's host, in ns."""

    now: int


@dataclass(frozen=True, kw_only=True)
class Declined:
    """A guest, or the depot, cannot do what it was told."""

    error: str


@dataclass(frozen=True, kw_only=True)
class Beat:
    """The guest is there; and where its workers are: worker, step, micro-batch, phase, and for how many ns."""

    rows: tuple[tuple[int, int, int, int, int], ...] = ()


Report = Clock | Loaded | Declined | Started | Said | Printed | Exited | Beat
REPORTS: Codec[Report] = Codec(Report)

# To the depot


@dataclass(frozen=True, kw_only=True)
class SetValue:
    """Keep a value for whoever asks for it."""

    key: str
    value: str


@dataclass(frozen=True, kw_only=True)
class GetValue:
    """Say what was set, once it was."""

    key: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class AskNewest:
    """Say which slot holds the newest whole state."""


@dataclass(frozen=True, kw_only=True)
class WriteState:
    """Say which slot a state goes to; its bytes follow then."""

    pinned: int | None
    step: int
    length: int
    writer: str
    """Who it is, among all who ever write."""
    again: bool = False
    """Whether it was sent before, over a connection that broke: another may have taken the writer's place meanwhile."""


@dataclass(frozen=True, kw_only=True)
class ReadState:
    """Send the state in a slot."""

    slot: int


@dataclass(frozen=True, kw_only=True)
class ReadFile:
    """Send a checkpoint's file."""

    path: str


Request = SetValue | GetValue | AskNewest | WriteState | ReadState | ReadFile
REQUESTS: Codec[Request] = Codec(Request)

# From the depot


@dataclass(frozen=True, kw_only=True)
class Done:
    """The depot has done what it was asked for."""


@dataclass(frozen=True, kw_only=True)
class Value:
    """What was set under a key; None if nobody has."""

    value: str | None


@dataclass(frozen=True, kw_only=True)
class Newest:
    """The newest whole state, if there is one."""

    held: Held | None


@dataclass(frozen=True, kw_only=True)
class Granted:
    """A state may be sent now; it goes to this slot."""

    slot: int


@dataclass(frozen=True, kw_only=True)
class Follows:
    """The depot sends so many bytes after this."""

    length: int


Answer = Done | Value | Newest | Granted | Follows | Declined
ANSWERS: Codec[Answer] = Codec(Answer)
