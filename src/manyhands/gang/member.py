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
    RUNNING = "running"
    SAVING = "saving"
    """It leaves its state in memory, gives it to others or takes it from another, as ordered."""
    FINISHED = "finished"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class Member:
    """A living one."""

    worker: int
    """Its number, which is never used twice in a session."""
    device: int
    """Which of its host's devices it has."""
    plan: Plan
    """What it was built for."""
    since: int = 0
    """When its phase began, in monotonic ns."""
    pid: int = 0
    host: str = HERE
    phase: Phase = Phase.STARTING
    rank: int | None = None
    """In the newest generation that it was in."""
    step: int = 0
    """Steps its state holds, as it last said."""
    first: int = 0
    """The step at which it joined its generation."""
    moved: bool = False
    """Whether it has said of any work since then."""
    bits: int = 0
    """Checksum of its initial weights."""
    whole: bool = True
    """Whether its state is the job's at a step boundary; of a server, whether it has all shards that it should have."""
    sha256: str = ""
    """Digest of its final weights."""
    late: bool = False
    """Whether it took the place of a lost one while the others went on."""
    placed: bool = False
    """Whether it has been in a generation."""

    @property
    def kind(self) -> Kind:
        return Kind.of(self.plan)

    @property
    def who(self) -> str:
        """It, in words."""
        return "a new worker" if self.rank is None else self.plan.role(self.rank)

    @property
    def process(self) -> str:
        """Its process, in words."""
        return f"process {self.pid}" if self.host == HERE else f"process {self.pid} on {self.host}"

    @property
    def holds_state(self) -> bool:
        """Whether others could go on from its state now."""
        return self.whole and self.phase in (Phase.IDLE, Phase.FINISHED, Phase.FAILED)

    def fits(self, plan: Plan) -> bool:
        """Whether it can take a place in the next generation, under this plan."""
        if not (self.kind.whole and Kind.of(plan).whole):
            return not self.placed and self.plan == plan
        return self.host in plan.places
