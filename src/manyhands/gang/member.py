"""A worker or server of a run, as its supervisor sees it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from manyhands.engine import HERE
from manyhands.gang.kind import Kind
from manyhands.plan import Plan


class Phase(Enum):
    """What a member is doing, as far as it has said."""

    STARTING = "starting"
    IDLE = "idle"
    CHECKING = "checking"
    RUNNING = "running"
    SAVING = "saving"
    """The member leaves its state in memory, gives it to others or takes it from another, as ordered."""
    FINISHED = "finished"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class Member:
    """A living worker or server."""

    worker: int
    """The member's number, which is never used twice in a session."""
    device: int
    """Which of its host's devices the member has."""
    plan: Plan
    """The plan that the member was built for."""
    since: int = 0
    """When the member's phase began, in monotonic ns."""
    pid: int = 0
    host: str = HERE
    phase: Phase = Phase.STARTING
    rank: int | None = None
    """The member's rank in the newest generation that it was in."""
    step: int = 0
    """Steps that the member's state holds, as it last said."""
    first: int = 0
    """The step at which the member joined its generation."""
    moved: bool = False
    """Whether the member has told of any work since it joined."""
    bits: int = 0
    """Checksum of the member's initial weights."""
    whole: bool = True
    """Whether the member's state is the job's at a step boundary; for a server, whether it has all its shards."""
    sha256: str = ""
    """Digest of the member's final weights."""
    late: bool = False
    """Whether the member took the place of a lost one while the others went on."""
    placed: bool = False
    """Whether the member has been in a generation."""

    @property
    def kind(self) -> Kind:
        return Kind.of(self.plan)

    @property
    def who(self) -> str:
        """What the member is, in words."""
        return "a new worker" if self.rank is None else self.plan.role(self.rank)

    @property
    def process(self) -> str:
        """The member's process, in words."""
        return f"process {self.pid}" if self.host == HERE else f"process {self.pid} on {self.host}"

    @property
    def holds_state(self) -> bool:
        """Whether others could go on from the member's state now."""
        return self.whole and self.phase in (Phase.IDLE, Phase.FINISHED, Phase.FAILED)

    def fits(self, plan: Plan) -> bool:
        """Whether the member can take a place in the next generation, under this plan."""
        if not (self.kind.whole and Kind.of(plan).whole):
            return not self.placed and self.plan == plan
        return self.host in plan.places
