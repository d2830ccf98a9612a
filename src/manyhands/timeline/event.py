"""The one record of time: what a lane of a rank did, from when to when.

Planners and running workers emit the same `Event`, so that what was predicted and what was measured stand on
one axis. Times are nanoseconds of the machine's monotonic clock, which all workers of a host share.
"""

from __future__ import annotations

from typing import NamedTuple

PHASES = (
    "data",
    "forward",
    "backward",
    "exchange",
    "optimizer",
    "snapshot",
    "evaluate",
    "idle",
    "input_gradient",
    "weight_gradient",
    "turn",
)
"""What a worker can be doing; `exchange` moves and adds gradients, `idle` waits for another worker, `turn` for another
job on the same slot. Zero-bubble pipelines take `backward` apart: into the gradient that the stage before waits for,
and that of the weights."""
SELDOM = ("input_gradient", "weight_gradient", "turn")
"""Phases that most runs do not have."""


class Event(NamedTuple):
    """A span of work on one lane of one rank."""

    rank: int
    lane: str
    """Which of the rank's parallel lanes, for example `compute`."""
    kind: str
    """One of `PHASES`."""
    start: int
    """Nanoseconds."""
    end: int
    """Nanoseconds; at least `start`."""
    bytes: int = 0
    """Bytes moved, where the kind moves any."""
    step: int = -1
    """The step it belongs to, or -1."""
    micro_batch: int = -1
    """The micro-batch it belongs to, or -1."""
