"""Files that one process holds as long as it lives; the kernel lets go of them when it ends, however it ends.

The lock belongs to the open file (F_OFD_SETLK), so a process that inherits the descriptor holds it on.
"""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

_FLOCK = struct.Struct("hhqqi4x")
"""Linux's struct flock on 64-bit machines: type, whence, start, length, pid."""


def take(path: Path) -> int | None:
    """A descriptor that holds the file until all its copies are closed; None if another holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, region(fcntl.F_WRLCK))
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def let_go(descriptor: int) -> None:
    """Hold the file no more, though processes that inherited the descriptor live on."""
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, region(fcntl.F_UNLCK))
    os.close(descriptor)


def sign(descriptor: int) -> None:
    """Write this process's id into a file that it has taken."""
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)


def signed_by(path: Path) -> str:
    """Who has signed a file."""
    return path.read_text() or "unknown"


def is_taken(path: Path) -> bool:
    """Whether some process holds the file."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:  # asks who would be in the way, and takes nothing
        found = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, region(fcntl.F_WRLCK))
    finally:
        os.close(descriptor)
    return _FLOCK.unpack(found)[0] != fcntl.F_UNLCK


def wait_until_free(path: Path) -> None:
    """Wait until nobody holds the file."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLKW, region(fcntl.F_RDLCK))
    finally:
        os.close(descriptor)


def region(kind: int, first: int = 0, length: int = 0) -> bytes:
    """What fcntl takes for a lock of some bytes of a file; a length of 0 is to its end."""
    return _FLOCK.pack(kind, os.SEEK_SET, first, length, 0)
