"""A board in shared memory on which every worker keeps its whereabouts: step, micro-batch, phase, since when.

Writing a line costs under a microsecond and needs nobody to read it. The supervisor looks only when it has
heard nothing for too long: a worker whose line stands still while it should compute is hung, one that waits for
others is not.
"""

from __future__ import annotations

import struct
from time import monotonic_ns
from typing import NamedTuple

from manyhands.shm.memory import SharedMemory

_LINE = struct.Struct("<qqqq")
_STRIDE = 64


class Whereabouts(NamedTuple):
    """Where a worker is. `phase` indexes `manyhands.timeline.PHASES`; `since` is monotonic nanoseconds."""

    step: int
    micro_batch: int
    phase: int
    since: int


class Board:
    """Lines for the workers; line numbers are reused modulo `LINES`."""

    LINES = 1024

    def __init__(self, descriptor: int | None = None) -> None:
        self._memory = SharedMemory(self.LINES * _STRIDE, descriptor, "manyhands-board")

    @property
    def descriptor(self) -> int:
        return self._memory.descriptor

    def write(self, line: int, step: int, micro_batch: int, phase: int, age: int = 0) -> None:
        """Write a line that has been true for `age` ns."""
        place = line % self.LINES * _STRIDE
        # In one copy: `pack_into` clears the line first, and a reader would find a worker that has stood still since 0.
        self._memory.view[place : place + _LINE.size] = _LINE.pack(step, micro_batch, phase, monotonic_ns() - age)

    def read(self, line: int) -> Whereabouts:
        return Whereabouts(*_LINE.unpack_from(self._memory.view, line % self.LINES * _STRIDE))

    def close(self) -> None:
        """Let go of the board."""
        self._memory.close()
