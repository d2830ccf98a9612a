"""How a program can fail to run to its end."""

from __future__ import annotations

from enum import IntEnum

HEADER_SIZE = 64
RANK_AT, IDENTITY_AT, TOTAL_AT = 4, 8, 56
"""Places in a header: of the sender's rank, of the operation's identity, of how many bytes follow on the channel."""


class Outcome(IntEnum):
    """What `machine_run` of machine.c returns."""

    DONE = 0
    LOST = 1
    MISMATCH = 2
    ABORTED = 3
    TIMED_OUT = 4
    NO_MEMORY = 5
    BAD_PROGRAM = 6


class MachineError(Exception):
    """The program stopped. `channel` is where (-1: nowhere in particular), `header` what the peer sent instead."""

    def __init__(self, outcome: Outcome, channel: int, header: bytes = b"") -> None:
        super().__init__(f"{outcome.name} at channel {channel}")
        self.outcome, self.channel, self.header = outcome, channel, header
