"""How a gang is looked after: how often state is kept, and how long silence is borne."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from manyhands.errors import UsageError
from manyhands.plan import Option


@dataclass(frozen=True, kw_only=True)
class Care:
    """Recovery settings. The defaults keep the cost of state under 2 % of the training time.

    Raises:
        UsageError: a value makes no sense.
    """

    checkpoint_every: Annotated[int | None, Option("N", "by --checkpoint-seconds")] = None
    """Durable checkpoint after every so many steps."""
    checkpoint_seconds: Annotated[float, Option("SECONDS")] = 30.0
    """Seconds between durable checkpoints; longer if writing one takes over 1 % of the time."""
    keep_checkpoints: Annotated[int, Option("N")] = 3
    """Newest checkpoints that are kept on disk."""
    snapshot_share: Annotated[float, Option("FRACTION")] = 0.01
    """Largest share of the training time that snapshots in shared memory may take."""
    patience: Annotated[float, Option("SECONDS")] = 10.0
    """A worker that stands still for so many seconds, and for ten times the longest step, is hung."""
    startup_patience: Annotated[float, Option("SECONDS")] = 600.0
    """The same as --patience, while a worker builds, compiles its first step, evaluates or saves."""
    check: Annotated[Literal["on", "off"], Option("on|off")] = "on"
    """Before a gang trains in a new way, show on a few micro-batches that it trains what one worker would. Off: for a
    model that has no room on one worker."""
    audit: Annotated[int, Option("N")] = 1000
    """Of replicas: a second worker computes one micro-batch in so many, too, and both must come to the same bits. 0:
    none."""
    new_data: bool = False
    """With --resume: go on though the data is another than when the run began."""
    attempts: Annotated[int, Option("N")] = 3
    """So many workers lost to crashes, hangs or want of memory without one more committed step end the run; ten times
    as many may be killed from outside."""

    def __post_init__(self) -> None:
        every = 1 if self.checkpoint_every is None else self.checkpoint_every
        if min(self.keep_checkpoints, self.attempts, every) < 1:
            raise UsageError("--keep-checkpoints, --checkpoint-every and --attempts must be at least 1.")
        if self.check not in ("on", "off"):
            raise UsageError(f"--check is on or off; {self.check!r} is neither.")
        if self.audit < 0:
            raise UsageError(f"--audit is one micro-batch in so many, or 0 for none; it is {self.audit}.")
        if not 0 < self.snapshot_share < 1:
            raise UsageError(f"--snapshot-share must lie between 0 and 1; it is {self.snapshot_share}.")
