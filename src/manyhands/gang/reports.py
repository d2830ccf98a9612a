"""What a member of a gang tells its supervisor."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from manyhands.timeline import Span
from manyhands.wire import Codec, decode_as


class StepRow(NamedTuple):
    """A committed step."""

    step: int
    """The step's number, counted from 1: after it, so many are done."""
    epoch: int
    first: int
    last: int
    """The positions of its samples, as of `training.trainer.Step`."""
    loss: float
    grad_norm: float | None
    lr: float
    began: int
    ended: int
    """When the step ended, in monotonic ns of the member's machine; `began` likewise."""
    sums: tuple[int, ...]
    """Nanoseconds of each phase."""
    spans: tuple[Span, ...]

    def bare(self) -> StepRow:
        """The row without its spans."""
        return self._replace(spans=())


def write_rows(rows: Iterable[StepRow]) -> str:
    """Rows as text, without spans: they go along with a state, for whoever takes it over to report them."""
    return json.dumps([row.bare() for row in rows])


def read_rows(text: str) -> list[StepRow]:
    """What `write_rows` wrote.

    Raises:
        MessageError: it is something else.
    """
    return list(decode_as(tuple[StepRow, ...], json.loads(text)))


@dataclass(frozen=True, kw_only=True)
class Built:
    """Model and data are there: it is idle."""

    bits: int
    """A checksum of the initial weights."""
    total_steps: int
    samples: int
    data: str = ""
    """A digest of a few samples; empty if they could not be read."""


@dataclass(frozen=True, kw_only=True)
class Joined:
    """Rank 0 has its place; training begins."""

    exchange: str
    """How gradients travel and why, in words."""
    cuts: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Checked:
    """The check is over for this member, which is idle."""

    verdict: str = ""
    """What was found, from the one that compares; empty from others, and where the check was not finished."""
    cuts: tuple[int, ...] = ()
    """Where the stages began."""
    spent: bool = False
    """Whether the member has trained for the check itself, so that it must not train the job."""


@dataclass(frozen=True, kw_only=True)
class Sized:
    """How large the state is."""

    bytes: int


@dataclass(frozen=True, kw_only=True)
class Steps:
    """Steps were committed. Every member of a gang of replicas reports all of them, so that none is lost with one."""

    rows: tuple[StepRow, ...]
    agreed: int = -1
    """The last step after which all replicas were seen to hold the same state; -1: none is known."""


class PartRow(NamedTuple):
    """Where the time of a part of a step went, which commits no step by itself."""

    step: int
    began: int
    ended: int
    sums: tuple[int, ...]
    spans: tuple[Span, ...]


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Parts of steps were computed."""

    rows: tuple[PartRow, ...]


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """The figures of an evaluation."""

    step: int
    metrics: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Balanced:
    """Micro-batches are shared out in another way."""

    step: int
    micro_batches: tuple[int, ...]
    """How many micro-batches each worker has."""


@dataclass(frozen=True, kw_only=True)
class Staleness:
    """How far apart workers were that wait for nobody."""

    step: int
    pushes: int
    ahead: int


@dataclass(frozen=True, kw_only=True)
class Served:
    """What a server has moved, in bytes."""

    server: int
    received: int
    sent: int


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A whole state was left in memory, as ordered, and its buffer is pinned."""

    buffer: int
    step: int


@dataclass(frozen=True, kw_only=True)
class Handed:
    """A handover is over: the member has given or taken the state, or failed at that."""

    step: int
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Unlinked:
    """The member and a server have missed each other."""

    server: int
    far: bool
    """Whether the server is on another host."""


@dataclass(frozen=True, kw_only=True)
class Recovered:
    """A server that took the place of a lost one has all that that one held."""


@dataclass(frozen=True, kw_only=True)
class Paused:
    """The member has stopped at a step boundary, and is idle."""

    step: int
    whole: bool
    """Whether the member's state is the job's whole one at that boundary."""


@dataclass(frozen=True, kw_only=True)
class LostPeer:
    """Another member was lost, or not found. This one keeps the state of the last boundary, and is idle."""

    step: int
    whole: bool
    peer: int | None
    """The rank that was lost; None if the member cannot tell which, because they did not find each other."""
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Deviated:
    """Replicas do not hold the same state, or do not compute the same. All members say so, and are idle."""

    step: int
    """Steps done; the next one was given up."""
    ranks: tuple[int, ...]
    """Who is wrong; empty: nobody can tell."""
    since: int | None
    """The last step after which their states were known to be the same, -1 for one before this gang; None: states are
    the same."""
    error: str


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The job is done."""

    step: int
    whole: bool
    sha256: str = ""
    """Digest of the final weights; empty where a member holds a part of them."""
    figures: object = None
    """What a short run was looked at for (training/probe.py)."""


@dataclass(frozen=True, kw_only=True)
class CutOff:
    """A worker on another host cannot reach the machine any more on which state is left: it waits to be replaced."""

    error: str


@dataclass(frozen=True, kw_only=True)
class Failed:
    """The job's code, or ours, has failed."""

    error: str
    doing: str
    """What was being done, in words; may be empty."""
    trace: str
    step: int
    whole: bool
    splitting: bool = False
    """Whether the model cannot be divided as the plan says."""


Report = (
    Built
    | Joined
    | Checked
    | CutOff
    | Sized
    | Steps
    | Parts
    | Evaluated
    | Balanced
    | Staleness
    | Served
    | Saved
    | Handed
    | Unlinked
    | Recovered
    | Paused
    | LostPeer
    | Deviated
    | Finished
    | Failed
)
REPORTS: Codec[Report] = Codec(Report)
