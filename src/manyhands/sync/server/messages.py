"""What workers and servers that wait for nobody say to each other. Tensors follow some of the messages (line.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from manyhands.sync.server.work import Share
from manyhands.wire import Codec, Data

Why = Literal["finished", "paused"]
"""Why no more work is handed out: for good, or for now."""

# A worker asks


@dataclass(frozen=True, kw_only=True)
class Hello:
    """A worker comes, or comes back to a server that took the place of a lost one."""

    share: Share | None
    """The share that the worker is at."""
    clock: int | None
    """How many shares the worker has completed, if it knows."""
    number: int
    """The number of the worker's last push."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Give the worker the next share, as soon as there is one that it may begin. To the chief alone."""


@dataclass(frozen=True, kw_only=True)
class Pull:
    """Send the weights as they are."""


@dataclass(frozen=True, kw_only=True)
class Push:
    """A share's gradient: its buckets come first, then this."""

    worker: int
    number: int
    """The push's number, counted by worker: a push that was applied is known by it."""
    share: Share
    micro_batches: int
    losses: tuple[float, ...]
    norm: float | None
    """Norm of the share's gradient, if it is clipped; `scale` is the factor that clipping makes of it."""
    scale: float
    unused: tuple[int, ...]
    """Parameters without a gradient."""
    others: dict[str, str]
    """What a first micro-batch left in buffers that are not summed."""
    version: int
    """Version of this server's weights when they were pulled."""


Question = Hello | Claim | Pull | Push
QUESTIONS: Codec[Question] = Codec(Question)

# A server answers a worker


@dataclass(frozen=True, kw_only=True)
class Welcome:
    """The worker may ask; the chief says into how many shares a step is cut."""

    parts: int | None = None


@dataclass(frozen=True, kw_only=True)
class Given:
    """A share to compute."""

    share: Share
    clock: int
    """How many shares the worker has completed."""


@dataclass(frozen=True, kw_only=True)
class Over:
    """There is no more work."""

    why: Why


@dataclass(frozen=True, kw_only=True)
class Version:
    """How many pushes were applied to this server's weights."""

    version: int


GIVEN: Codec[Given | Over] = Codec(Given | Over)
"""What a claim is answered with."""

# A server asks another


@dataclass(frozen=True, kw_only=True)
class Copy:
    """Apply a push to the copy of the asking server's shards; its gradient follows."""

    push: Push
    chief: Data | None
    """What the chief knows, if it is the chief that asks."""


@dataclass(frozen=True, kw_only=True)
class Adopt:
    """Replace the copy of the asking server's shards by what follows, so many bytes."""

    size: int
    chief: Data | None


@dataclass(frozen=True, kw_only=True)
class AskReplica:
    """Send the copy of a lost server's shards: whoever asks has taken that server's place."""


@dataclass(frozen=True, kw_only=True)
class AskState:
    """Send all that the server holds."""


@dataclass(frozen=True, kw_only=True)
class TellOver:
    """There is no more work: end, for good or for now."""

    why: Why


Errand = Copy | Adopt | AskReplica | AskState | TellOver
ERRANDS: Codec[Errand] = Codec(Errand)

# And is answered


@dataclass(frozen=True, kw_only=True)
class Done:
    """The other server has done what it was asked for."""


@dataclass(frozen=True, kw_only=True)
class Tree:
    """A state of so many bytes follows."""

    size: int
    chief: Data | None = None
