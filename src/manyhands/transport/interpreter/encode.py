"""Programs as the interpreter reads them: rows of numbers, channels by their index."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from manyhands.collective import Op, Place, Program

_SMALL = ("op", "channel", "target", "left", "right", "unused")
_LARGE = ("count", "target_at", "left_at", "right_at")
ROW = np.dtype([*((name, "<i4") for name in _SMALL), *((name, "<i8") for name in _LARGE)])
"""`instruction_t` of machine.c: buffers by number, -1 for none; counts in elements, places in bytes."""

DTYPES = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.uint8,
    torch.uint16,
    torch.uint32,
    torch.uint64,
]
REDUCTIONS = ["sum", "min", "max", "prod"]


@dataclass(frozen=True)
class Encoded:
    """A program for elements of one size."""

    rows: np.ndarray
    itemsize: int
    scratch: int
    """Elements of the last buffer, which is scratch."""
    channels: frozenset[int]
    """Channels that the program uses."""


def encode(program: Program, itemsize: int, channels: Callable[[int, str], int]) -> Encoded:
    """Translate a program; `channels` gives the index of the channel to a peer on a rail."""
    rows = np.zeros(len(program.instructions), ROW)

    def place(p: Place | None) -> tuple[int, int]:
        return (-1, 0) if p is None else (p.buffer, p.start * itemsize)

    used = set()
    for i, step in enumerate(program.instructions):
        channel = -1
        if step.op in (Op.SEND, Op.RECEIVE, Op.RECEIVE_ADD):
            channel = channels(step.peer, step.rail)
            used.add(channel)
        target, left, right = place(step.target), place(step.left), place(step.right)
        rows[i] = (step.op, channel, target[0], left[0], right[0], 0, step.count, target[1], left[1], right[1])
    return Encoded(rows, itemsize, program.sizes[-1], frozenset(used))
