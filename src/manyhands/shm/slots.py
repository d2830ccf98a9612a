"""Two slots of shared memory in which a worker leaves its state for whoever comes after it.

The writer alternates between the slots and marks one whole only when its last byte is written, so however it
dies, the other slot still holds an older whole state. The memory belongs to the supervisor and is inherited by
every worker. A slot that the supervisor is still reading (a checkpoint on its way to the disk) is pinned:
the writer then keeps to the other one, and the pinned slot is the whole one.

Slot: `magic u64 | step u64 | length u64`, then `length` bytes at offset 4096. The magic is written last.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from manyhands.shm.memory import SharedMemory

_HEADER = struct.Struct("<QQQ")
_MAGIC = 0x31544F4C53484D01
_OFFSET = 4096


class Held(NamedTuple):
    """A whole state in a slot."""

    slot: int
    step: int


class Slots:
    """The pair of slots; a writer and a reader each have their own object over the same two descriptors."""

    def __init__(self, descriptors: tuple[int, int] | None = None) -> None:
        held = descriptors or (None, None)
        self._memory = [SharedMemory(_OFFSET, descriptor, "manyhands-state") for descriptor in held]
        self.pinned: int | None = None

    @property
    def descriptors(self) -> tuple[int, int]:
        return self._memory[0].descriptor, self._memory[1].descriptor

    def newest(self) -> Held | None:
        """The whole slot with the highest step."""
        held = [h for h in map(self._held, (0, 1)) if h is not None]
        return max(held, key=lambda h: h.step, default=None)

    def forget_after(self, step: int) -> None:
        """Forget states of later steps."""
        for slot, memory in enumerate(self._memory):
            held = self._held(slot)
            if held is not None and held.step > step:
                memory.view[: _HEADER.size] = bytes(_HEADER.size)

    def reserve(self, length: int) -> None:
        """Provide for images of `length` bytes, so that the first ones cost no more than the later."""
        for memory in self._memory:
            memory.reserve(_OFFSET + length)

    def begin(self, length: int) -> tuple[int, memoryview]:
        """Choose the slot to overwrite, invalidate it, and give its first `length` bytes to write to."""
        newest = self.newest()
        slot = 1 - self.pinned if self.pinned is not None else (1 - newest.slot if newest else 0)
        memory = self._memory[slot]
        memory.view[: _HEADER.size] = bytes(_HEADER.size)
        memory.grow(_OFFSET + length)
        return slot, memoryview(memory.view)[_OFFSET : _OFFSET + length]

    def commit(self, slot: int, step: int, length: int) -> int:
        """Mark a slot as whole; returns it."""
        view = self._memory[slot].view
        view[8 : _HEADER.size] = struct.pack("<QQ", step, length)
        view[:8] = struct.pack("<Q", _MAGIC)
        return slot

    def read(self, slot: int) -> memoryview:
        """The bytes of a whole slot; they change when the slot is written again.

        Raises:
            ValueError: the slot is not whole.
        """
        memory = self._memory[slot]
        magic, _, length = _HEADER.unpack_from(memory.view)
        if magic != _MAGIC:
            raise ValueError(f"slot {slot} holds no whole state")
        memory.grow(_OFFSET + length)
        return memoryview(memory.view)[_OFFSET : _OFFSET + length]

    def close(self) -> None:
        """Let go of both slots; the memory goes with the last process that holds it."""
        for memory in self._memory:
            memory.close()

    def _held(self, slot: int) -> Held | None:
        magic, step, _ = _HEADER.unpack_from(self._memory[slot].view)
        return Held(slot, step) if magic == _MAGIC else None
