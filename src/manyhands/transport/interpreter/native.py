"""The interpreter in C (machine.c), and how to call it."""

from __future__ import annotations

import ctypes
import functools
import socket
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from manyhands.transport.interpreter.build import load
from manyhands.transport.interpreter.encode import DTYPES, REDUCTIONS, Encoded
from manyhands.transport.interpreter.outcome import HEADER_SIZE, MachineError, Outcome


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled machine; None, with a line in the log, where it cannot be built."""
    loaded = load()
    return loaded and _declared(loaded)


def _declared(loaded: ctypes.CDLL) -> ctypes.CDLL:
    pointer, number, long = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
    signatures = {
        "machine_new": (pointer, [number, number, pointer, number]),
        "machine_socket": (None, [pointer, number, number]),
        "machine_ring": (None, [pointer, number, pointer, pointer, ctypes.c_uint64, pointer, number]),
        "machine_abort": (None, [pointer]),
        "machine_waits_for": (number, [pointer, number]),
        "machine_error_channel": (number, [pointer]),
        "machine_error_header": (pointer, [pointer]),
        "machine_sent": (ctypes.c_uint64, [pointer, number]),
        "machine_received": (ctypes.c_uint64, [pointer, number]),
        "machine_free": (None, [pointer]),
        "machine_run": (
            number,
            [pointer, pointer, long, pointer, number, number, number, ctypes.c_char_p, long],
        ),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded


@dataclass(frozen=True)
class RingEnds:
    """A channel through shared memory: addresses in this process, and how to wake the peer."""

    out: int
    into: int
    capacity: int
    peer_sleeping: int
    peer_bell: int


class NativeMachine:
    """Carries out programs over these channels, one program at a time.

    Args:
        channels: a connected socket or the ends of two rings each.
        bell: the eventfd that peers ring.
        sleeping: address of this rank's flag in shared memory.
        spin: looks before it sleeps.
    """

    def __init__(self, channels: Sequence[socket.socket | RingEnds], bell: int, sleeping: int, spin: int) -> None:
        native = library()
        assert native is not None
        self._native = native
        self._channels, self._moved = len(channels), [(0, 0)] * len(channels)
        self._machine = native.machine_new(len(channels), bell, sleeping, spin)
        if not self._machine:
            raise MemoryError("no memory for the interpreter")
        self._scratch = torch.empty(0, dtype=torch.uint8)
        for index, channel in enumerate(channels):
            if isinstance(channel, RingEnds):
                ends = channel.out, channel.into, channel.capacity, channel.peer_sleeping, channel.peer_bell
                native.machine_ring(self._machine, index, *ends)
            else:
                native.machine_socket(self._machine, index, channel.fileno())

    def run(
        self,
        program: Encoded,
        buffers: Sequence[Tensor],
        dtype: torch.dtype,
        reduction: str,
        header: bytes,
        deadline: float,
    ) -> None:
        """Carry out a program. The GIL is released meanwhile.

        Args:
            buffers: contiguous tensors on the CPU, all but the scratch.
            deadline: on the monotonic clock, in seconds.

        Raises:
            MachineError: it could not be carried out to its end.
        """
        size = program.scratch * program.itemsize
        if self._scratch.numel() < size:
            self._scratch = torch.empty(size, dtype=torch.uint8)
        addresses = [b.data_ptr() for b in buffers] + [self._scratch.data_ptr()]
        table = (ctypes.c_void_p * len(addresses))(*addresses)
        outcome = self._native.machine_run(
            self._machine,
            program.rows.ctypes.data,
            len(program.rows),
            table,
            program.itemsize,
            DTYPES.index(dtype),
            REDUCTIONS.index(reduction),
            header,
            int(min(deadline, 1e9) * 1e9),
        )
        if outcome != Outcome.DONE:
            header = ctypes.string_at(self._native.machine_error_header(self._machine), HEADER_SIZE)
            raise MachineError(Outcome(outcome), self._native.machine_error_channel(self._machine), header)

    def abort(self) -> None:
        """End the program that runs, and all that follow; from any thread."""
        if self._machine:
            self._native.machine_abort(self._machine)

    def waits_for(self, channel: int) -> bool:
        """Whether the running program waits for bytes from this channel, or for room in it."""
        return bool(self._machine and self._native.machine_waits_for(self._machine, channel))

    def traffic(self, channel: int) -> tuple[int, int]:
        """Bytes sent and received so far."""
        native, machine = self._native, self._machine
        if not machine:
            return self._moved[channel]
        return native.machine_sent(machine, channel), native.machine_received(machine, channel)

    def close(self) -> None:
        """Free the machine; no program may be running."""
        if self._machine:
            self._moved = [self.traffic(channel) for channel in range(self._channels)]
            machine, self._machine = self._machine, None
            self._native.machine_free(machine)
