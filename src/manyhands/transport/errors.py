"""What can go wrong between ranks. Every message names the rank and the operation."""

from __future__ import annotations


class GroupError(RuntimeError):
    """The group cannot be used any more."""


class PeerLostError(GroupError):
    """A rank is gone; what is left must regroup."""

    def __init__(self, rank: int, doing: str, reason: str = "was lost") -> None:
        super().__init__(f"rank {rank} {reason} while {doing}")
        self.rank = rank
        self.reason = reason


class MismatchError(GroupError):
    """Ranks called different operations."""


class WaitedTooLongError(GroupError, TimeoutError):
    """A rank did not come within the group's timeout."""
