"""What each rank does for a collective, step by step: the common language of forests, MSCCL files and the interpreter.

A program is a list of instructions that a rank carries out in order. Ranks are joined by channels: first in, first
out, a sender never overtaken. A `SEND` leaves its bytes in the channel, a `RECEIVE` waits for them. Positions
are elements of numbered buffers.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple


class Op(IntEnum):
    """What an instruction does."""

    SEND = 0
    """`left` goes into the channel to `peer`."""
    RECEIVE = 1
    """`target` = what comes from `peer`."""
    RECEIVE_ADD = 2
    """`target` = `left` + what comes from `peer`. `target` may be `left`."""
    ADD = 3
    """`target` = `left` + `right`. `target` may be either."""
    COPY = 4
    """`target` = `left`."""
    ROUND = 5
    """`target` = `left` as it is after a lossy wire format; the error is left in `right`. See lossy.py, which turns
    programs with this into such with the following."""
    ENCODE_BF16 = 6
    """`target` = the wire format of `left` + `right`; what is lost is left in `right`. Without `right`, of `left`."""
    DECODE_BF16 = 7
    """`target` = `left` + what the wire format `right` says. Without `left`, that alone."""
    ENCODE_INT8 = 8
    DECODE_INT8 = 9


class Place(NamedTuple):
    """`count` elements (the instruction's) from `start` of a buffer."""

    buffer: int
    start: int


class Instruction(NamedTuple):
    """One step of a rank."""

    op: Op
    count: int
    """Elements that the instruction is about."""
    target: Place | None = None
    left: Place | None = None
    right: Place | None = None
    peer: int = -1
    rail: str = ""
    """Which channel to the peer, where there are several."""


@dataclass(frozen=True)
class Program:
    """One rank's part of a collective.

    Buffer 0 is the rank's data: input and, unless `output` says otherwise, output, of `sizes[0]` elements. Buffers
    after `inputs` are scratch.
    """

    rank: int
    sizes: tuple[int, ...]
    """Elements of each buffer."""
    inputs: int
    """The first so many buffers belong to the caller."""
    output: int
    """The buffer that holds the result."""
    instructions: tuple[Instruction, ...]
