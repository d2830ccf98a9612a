"""What a supervisor tells a member of its gang.

A member that is idle obeys `Build` (first and once), `Join`, `HandOver`, `Save` and `Exit`; one that trains obeys
`Pause`, `Checkpoint` and `Exit` between two steps. `Link`, `TakeTurns` and `Unpin` it obeys at any time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from manyhands.engine import Meeting
from manyhands.plan import Plan
from manyhands.wire import Codec

Role = Literal["worker", "server"]


@dataclass(frozen=True, kw_only=True)
class InMemory:
    """A whole state lies in one of the two buffers for snapshots (shm/slots.py)."""

    buffer: int
    step: int
    force: bool = False
    """Whether to take the state though the member has done as many steps: its weights are others."""


@dataclass(frozen=True, kw_only=True)
class OnDisk:
    """A whole state is a checkpoint's file."""

    path: str
    step: int
    force: bool = False


Kept = InMemory | OnDisk
"""Where a state is kept."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """How the member shares its slot with another job's (plan/sharing.py)."""

    way: str
    file: str
    """The file by whose locks the jobs take turns."""


@dataclass(frozen=True, kw_only=True)
class Build:
    """Make the model and the data."""

    device: int
    """Which of the host's devices, where it has some."""
    plan: Plan
    expect: int = 0
    """Bytes of the state that this member will be handed; 0 if none, or not known."""


@dataclass(frozen=True, kw_only=True)
class Join:
    """Take a place in a generation and train. Connections to all others come with it, unless nobody waits for all."""

    rank: int
    plan: Plan
    """The plan of the generation; a replica may have been built for another."""
    load: Kept | None
    """The newest state; None if the member has it."""
    evaluated: int
    """The last step that was evaluated."""
    pinned: int | None
    """The buffer that must not be written: it is on its way to the disk."""
    cuts: tuple[int, ...] | None = None
    """Where the stages of a pipeline begin, if that was found before."""
    turn: Turn | None = None
    fresh: bool = False
    """Whether the member takes the place of a lost one, while the others go on."""
    meeting: Meeting | None = None


@dataclass(frozen=True, kw_only=True)
class Check:
    """Show, with all others of the gang that is to be, that it trains what one worker would (training/check.py)."""

    rank: int
    plan: Plan
    meeting: Meeting | None = None


@dataclass(frozen=True, kw_only=True)
class Link:
    """A connection to one other member, where nobody waits for all."""

    role: Role
    number: int
    fresh: bool
    """Whether the other member has taken the place of one that was lost."""
    first: bool
    """Whether this member has rank 0, of the two."""
    meeting: Meeting | None = None


@dataclass(frozen=True, kw_only=True)
class HandOver:
    """Give the state to the others that are told so, as rank 0, or take it from that one."""

    rank: int
    meeting: Meeting | None = None


@dataclass(frozen=True, kw_only=True)
class Pause:
    """Stop at the next step boundary, all of the gang at the same."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Leave the state in memory at a step boundary, for a checkpoint: at the next one, or when the budget allows."""

    at_once: bool


@dataclass(frozen=True, kw_only=True)
class Save:
    """Leave the state in memory now."""

    pinned: int | None


@dataclass(frozen=True, kw_only=True)
class Unpin:
    """Both buffers for snapshots may be written again."""


@dataclass(frozen=True, kw_only=True)
class TakeTurns:
    """Share the slot with another job's worker from now on; None: with nobody."""

    turn: Turn | None


@dataclass(frozen=True, kw_only=True)
class Exit:
    """End."""


Order = Build | Join | Check | Link | HandOver | Pause | Checkpoint | Save | Unpin | TakeTurns | Exit
ORDERS: Codec[Order] = Codec(Order)
