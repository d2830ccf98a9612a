"""How a run stands, as data: all that its supervisor decides by.

`Standing` is frozen; `decide` and the functions of `heard.py` take one and give the next, with the actions that lead
there. They see no clock, no process and no file, so a test can drive thousands of histories through them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from manyhands.gang import Member, Phase, Turn
from manyhands.plan import Plan
from manyhands.run import Checkpoint
from manyhands.shm import Held
from manyhands.supervise.generation import Generation
from manyhands.supervise.losses import Casualties


@dataclass(frozen=True, kw_only=True)
class Ending:
    """Why the run ends, and how far its end has come."""

    status: str
    """How the run ends: `finished`, `stopped` or `failed`."""
    error: str = ""
    trace: str = ""
    """What is behind a failure, for `--debug`."""
    paused: bool = False
    """Whether all who train were told to stop."""
    saved: bool = False
    """Whether the newest state was seen to."""


@dataclass(frozen=True, kw_only=True)
class Durable:
    """What is on disk, and when more should be."""

    step: int = 0
    """Step of the newest checkpoint."""
    tried: int = 0
    """Step of the newest checkpoint that was begun."""
    buffer: int | None = None
    """The buffer of the state that is being written; nobody may write there. None: no checkpoint is being written."""
    every: int | None = None
    """Steps from one checkpoint to the next; None goes by time."""
    due_at: int = 0
    """When the next checkpoint is due, in monotonic ns."""

    @property
    def writing(self) -> bool:
        return self.buffer is not None

    def due(self, step: int, now: int) -> bool:
        """Whether state should be made durable now, so many steps being committed."""
        if self.writing or step <= self.step:
            return False
        if self.every is not None:
            return step // self.every > max(self.step, self.tried) // self.every
        return now >= self.due_at


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How a run stands."""

    wanted: Plan
    """What the gang is to be."""
    reproducible: bool = True
    compiles: bool = False
    """Whether the job compiles its model: first steps take long."""
    checks: bool = False
    """Whether a plan is checked before it trains (training/check.py)."""
    checked: Mapping[str, str] = field(default_factory=dict)
    """What the checks have found, by `Plan.manner`."""
    casualties: Casualties
    now: int = 0
    """The time, in monotonic ns."""
    members: Mapping[int, Member] = field(default_factory=dict)
    """The members that live, by number."""
    leaving: Mapping[int, Member] = field(default_factory=dict)
    """Members that were told to end and are not gone yet: what they still say of committed steps counts."""
    next_worker: int = 0
    """The number of the next worker to be started."""
    generation: Generation | None = None
    """The newest generation."""
    proven: Plan | None = None
    """The last plan that committed a step."""
    resizes: int = 0
    """Resizes that were asked for."""
    turns: tuple[Turn, ...] = ()
    """How the slots are shared with another job, by rank; empty if they are not."""

    committed: int = 0
    """Steps that are committed."""
    total_steps: int = 0
    data: str = ""
    """A digest of some samples; empty if it is not known."""
    before: bool = False
    """Whether `samples` and `data` are those of a former session."""
    samples: int = 0
    """Samples of an epoch."""
    evaluated: int = -1
    """The last step that was evaluated."""
    exchange: str = ""
    """How gradients travel, in words."""
    cuts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Where the stages of a layout begin, by layout: found once, by measurement."""
    state_bytes: int = 0
    """Bytes of the job's state; 0 if not known."""

    held: Held | None = None
    """The newest whole state in memory."""
    checkpoint: Checkpoint | None = None
    """The state that the session began with."""
    durable: Durable = Durable()
    saving_for: int = 0
    """The generation that waits for a member to leave its state in memory; 0: none does."""
    handed_for: int = 0
    """The newest generation for which state was handed over."""
    giver: int = -1
    """The worker that gave state last."""
    missed: int = 0
    """The newest generation whose members did not find each other."""
    agreed: int = -1
    """The last step after which all replicas were seen to hold the same state; -1: none is known."""
    deviated: int = 0
    """The newest generation whose members were found to deviate."""
    deviated_at: int = -1
    """The furthest step after which members were found to deviate."""
    deviations: int = 0
    """How often they were."""

    ending: Ending | None = None
    interrupts: int = 0
    sha256: str = ""
    """Digest of the final weights, as the first to finish said."""
    figures: Mapping[int, Any] = field(default_factory=dict)
    """What members of a short run found out, by rank."""

    @property
    def number(self) -> int:
        """Number of the newest generation; 0 before the first."""
        return self.generation.number if self.generation else 0

    @property
    def workers(self) -> int:
        """How many the newest generation has, servers not counted."""
        return self.generation.workers if self.generation else 0

    @property
    def phases(self) -> set[Phase]:
        """What members are doing."""
        return {member.phase for member in self.members.values()}

    @property
    def working(self) -> list[Member]:
        """The members of the newest generation that train."""
        gang = self.generation.gang if self.generation else ()
        found = (self.members.get(worker) for worker in gang)
        return [member for member in found if member is not None and member.phase is Phase.RUNNING]

    @property
    def unheard(self) -> bool:
        """Whether somebody who was ended in the middle of training may still have to say which steps were committed."""
        return any(member.phase is Phase.RUNNING for member in self.leaving.values())

    @property
    def settled(self) -> bool:
        """Whether the gang is what it is to be."""
        there = self.generation is not None and self.generation.plan == self.wanted
        return there and all(member.placed for member in self.members.values())

    def turn_of(self, rank: int) -> Turn | None:
        """How the worker of this rank shares its slot."""
        return self.turns[rank] if rank < len(self.turns) else None
