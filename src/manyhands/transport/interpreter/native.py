"""The interpreter in C: built on demand with the system's compiler, kept in the user's cache."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from manyhands.transport.interpreter.encode import DTYPES, REDUCTIONS, Encoded
from manyhands.transport.interpreter.outcome import HEADER_SIZE, MachineError, Outcome

_SOURCE = Path(__file__).with_name("machine.c")
_FLAGS = ["-O3", "-march=native", "-ffp-contract=off", "-fwrapv", "-shared", "-fPIC"]
_BUILD_SECONDS = 120

_log = logging.getLogger("manyhands")


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled machine; None, with a line in the log, where there is no compiler or it fails."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        _log.warning("no C compiler found (cc): collectives run in Python over sockets, several times slower.")
        return None
    try:
        loaded = ctypes.CDLL(str(_build(compiler)))
    except (OSError, subprocess.SubprocessError) as error:
        text = getattr(error, "stderr", b"") or str(error).encode()
        _log.warning("machine.c could not be built: collectives run in Python. %s", text.decode(errors="replace"))
        return None
    return _declared(loaded)


def _build(compiler: str) -> Path:
    """The path of the shared library, compiled now (about a second) if the cache has none for this processor."""
    flags = next((line for line in _processor().splitlines() if line.startswith(("flags", "Features"))), "")
    key = hashlib.sha256("\0".join([_SOURCE.read_text(), *_FLAGS, platform.machine(), flags]).encode()).hexdigest()
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "manyhands"
    try:
        base.mkdir(parents=True, exist_ok=True)
    except OSError:
        base = Path(tempfile.mkdtemp(prefix="manyhands-"))
    built = base / f"machine-{key[:16]}.so"
    if not built.exists():
        with tempfile.TemporaryDirectory(dir=base) as work:
            made = Path(work) / built.name
            command = [compiler, *_FLAGS, "-o", str(made), str(_SOURCE)]
            subprocess.run(command, check=True, capture_output=True, timeout=_BUILD_SECONDS)
            made.replace(built)
    return built


def _processor() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""


def _declared(loaded: ctypes.CDLL) -> ctypes.CDLL:
    pointer, number, long = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
    signatures = {
        "machine_new": (pointer, [number, number, pointer, number]),
        "machine_socket": (None, [pointer, number, number]),
        "machine_ring": (None, [pointer, number, pointer, pointer, ctypes.c_uint64, pointer, number]),
        "machine_abort": (None, [pointer]),
        "machine_waiting_for": (number, [pointer]),
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
        self._native.machine_abort(self._machine)

    @property
    def waiting_for(self) -> int:
        """The channel that the running program waits for; -1: none."""
        return self._native.machine_waiting_for(self._machine)

    def traffic(self, channel: int) -> tuple[int, int]:
        """Bytes sent and received so far."""
        native, machine = self._native, self._machine
        return native.machine_sent(machine, channel), native.machine_received(machine, channel)

    def close(self) -> None:
        if self._machine:
            self._native.machine_free(self._machine)
            self._machine = None
