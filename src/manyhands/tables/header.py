"""The first page of a table's file: what the file is, and whether its writers left it in order.

    0     8 bytes   magic, which ends in the version of the format
    8     2040      JSON: rows, width, words per record, optimizer, initial state, seed, std; padded with zeros
    2048  64 x 32   one slot per writer: boot id (16 bytes), the oldest step that may be rolled back to (u64), 8 free

A writer's boot id stands there from its first change after a sync to its next sync. If it is that of an earlier boot,
the machine went down with changes that may be on disk in part: neither the rows nor the undo journal can be trusted
then.
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
import uuid
from functools import cache
from pathlib import Path
from typing import Any

from manyhands.tables.spec import TableError

PAGE = 4096
"""Bytes of the header, and of the pages whose places are counted."""
WRITERS = 64
_MAGIC = b"mhtable1"
_SLOTS = 2048
_SLOT = struct.Struct("<16sQ8x")
_CLEAN = bytes(16)


def write_header(descriptor: int, facts: dict[str, Any]) -> None:
    """Make the first page of a new file."""
    page = (_MAGIC + json.dumps(facts).encode()).ljust(PAGE, b"\0")
    os.pwrite(descriptor, page, 0)


def read_facts(descriptor: int, path: Path) -> dict[str, Any]:
    """What the file holds.

    Raises:
        TableError: it is not a table's file.
    """
    page = os.pread(descriptor, _SLOTS, 0)
    if not page.startswith(_MAGIC):
        raise TableError(f"{path} is not the file of a table. Move it away, or name another file.")
    return json.loads(page[len(_MAGIC) :].rstrip(b"\0"))


def check_facts(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Refuse another table's file.

    Raises:
        TableError: names what differs.
    """
    names = [name for name in wanted if found.get(name) != wanted[name]]
    if names:
        held = ", ".join(f"{name}={found.get(name)!r}" for name in names)
        asked = ", ".join(f"{name}={wanted[name]!r}" for name in names)
        raise TableError(
            f"{path} holds a table with {held}; this one has {asked}. Nothing was written. Give the table another "
            "file, change its arguments back, or delete the file to begin anew."
        )


@cache
def boot_id() -> bytes:
    """Which boot of the machine this is."""
    return uuid.UUID(Path("/proc/sys/kernel/random/boot_id").read_text().strip()).bytes


def check_boot(descriptor: int, path: Path) -> None:
    """Refuse a file whose writers had not synced when the machine went down.

    Raises:
        TableError: names the writers.
    """
    torn = [w for w in range(WRITERS) if Slot(descriptor, w).boot not in (_CLEAN, boot_id())]
    if torn:
        raise TableError(
            f"{path} was changed by writer {', '.join(map(str, torn))} and not synced before the machine was "
            "restarted, so it may be on disk in part. Put a copy in its place, or delete it and its .undo folder to "
            "begin anew."
        )


def lock(descriptor: int, kind: int, path: Path, otherwise: str) -> None:
    """Take a lock that the kernel gives up when the process ends, however it ends.

    Raises:
        TableError: it is taken.
    """
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        raise TableError(f"{path} {otherwise}. Wait until that has ended.") from None


class Slot:
    """One writer's entry in the header."""

    def __init__(self, descriptor: int, writer: int) -> None:
        self._descriptor = descriptor
        self._place = _SLOTS + writer * _SLOT.size
        boot, oldest = _SLOT.unpack(os.pread(descriptor, _SLOT.size, self._place))
        self.boot: bytes = boot
        self.oldest: int = oldest

    def changing(self) -> None:
        """The first change after a sync is about to be made: the disk has to know before any of it reaches the disk."""
        if self.boot != boot_id():
            self.boot = boot_id()
            self._write()
            os.fdatasync(self._descriptor)

    def synced(self) -> None:
        """All changes are on disk."""
        self.boot = _CLEAN
        self._write()
        os.fdatasync(self._descriptor)

    def forget(self, before_step: int) -> None:
        """Steps before this one cannot be rolled back to any more."""
        self.oldest = before_step
        self._write()

    def _write(self) -> None:
        os.pwrite(self._descriptor, _SLOT.pack(self.boot, self.oldest), self._place)
