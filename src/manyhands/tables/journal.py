"""The undo journal: what rows were before they were changed, so that a table can go back to a step.

Problem: a server is killed while it changes rows, or the run has to go back to a step; a copy of the table per step
is out of the question. Idea: time is cut into epochs, each begun by `mark(step)`. Before a row is changed for the
first time in an epoch, its old bytes are appended to the epoch's file. Undoing the epochs from the newest to the one
wanted, and each from its end to its beginning, puts back the oldest bytes of every row last, so it does not matter
how often or how far that is done.

One folder per table, one file per writer and epoch, so that to forget an epoch is to unlink a file:

    items.table.undo/0-00000042.undo    header: magic, words per row, step, CRC
                                        blocks: magic, CRC, rows; ids (i64); old records

Appends come before the rows are changed, and pages written by a process outlive it. A block that was cut off by a
kill fails its length or its CRC; its rows were not changed. Cost: one write per update, of 8 bytes and the record for
each row that is new to the epoch.

Source: undo logging with steal and no-force, Mohan et al. 1992 (ARIES), without the redo half: what is marked is in
the page cache.
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from manyhands.tables.records import FULL, Ids, Words, disk_full
from manyhands.tables.spec import TableError

_NAME = re.compile(r"(\d+)-(\d+)\.undo")
_HEADER = struct.Struct("<8sIQI")
_HEADER_MAGIC = b"mhundo-1"
_BLOCK = struct.Struct("<4sIQ")
_BLOCK_MAGIC = b"rows"
_ROWS = 1 << 16
"""Rows of a block at most."""


class Epoch(NamedTuple):
    """An epoch of a writer, on disk."""

    step: int
    writer: int
    path: Path


def folder_of(table: Path) -> Path:
    """Where a table's journals are."""
    return table.with_name(table.name + ".undo")


def epochs(folder: Path, words: int) -> list[Epoch]:
    """All epochs whose mark was completed, by step and writer."""
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        if match := _NAME.fullmatch(path.name):
            epoch = Epoch(int(match[2]), int(match[1]), path)
            with path.open("rb") as file:
                if file.read(_HEADER.size) == _header(words, epoch.step):
                    found.append(epoch)
    return sorted(found)


class Journal:
    """One writer's journal. Goes on in the last epoch that it finds.

    Attributes:
        step: of the epoch; None before the first mark.
    """

    def __init__(self, folder: Path, writer: int, words: int) -> None:
        self._folder, self._writer, self._words = folder, writer, words
        mine = [epoch for epoch in epochs(folder, words) if epoch.writer == writer]
        self._epochs = [epoch.step for epoch in mine]
        self._descriptor = -1
        self._end = 0
        self._unsynced: set[int] = set()
        self.step: int | None = None
        if mine:
            self._open(mine[-1].step, create=False)
            self._end = _HEADER.size + sum(size for _, size in _blocks(mine[-1].path, words))
            os.ftruncate(self._descriptor, self._end)
            self._unsynced.update(self._epochs)

    @property
    def is_fresh(self) -> bool:
        """Whether nothing has changed since the mark."""
        return self._end == _HEADER.size

    def mark(self, step: int) -> None:
        """Begin an epoch.

        Raises:
            TableError: the disk is full; the epoch before goes on.
        """
        before = self._descriptor, self._end, self.step
        try:
            self._open(step, create=True)
            self._end = 0
            self._write(_header(self._words, step))
        except (OSError, TableError) as error:
            if self._descriptor != before[0]:
                os.close(self._descriptor)
                self._path(step).unlink()
            self._descriptor, self._end, self.step = before
            self._unsynced.discard(step)
            if isinstance(error, TableError) or error.errno not in FULL:
                raise
            raise disk_full(self._path(step), error) from None
        self._epochs.append(step)
        if before[0] >= 0:
            os.close(before[0])

    def append(self, ids: Ids, records: Words) -> None:
        """Keep the records as they are before a change.

        Raises:
            TableError: the disk is full; no row may be changed.
        """
        for start in range(0, len(ids), _ROWS):
            body = ids[start : start + _ROWS].tobytes() + records[start : start + _ROWS].tobytes()
            count = len(ids[start : start + _ROWS])
            self._write(_BLOCK.pack(_BLOCK_MAGIC, zlib.crc32(body), count) + body)

    def forget(self, before_step: int) -> None:
        """Drop the epochs that began before a step; the one that goes on stays."""
        for step in [step for step in self._epochs if step < before_step and step != self.step]:
            self._path(step).unlink()
            self._epochs.remove(step)
            self._unsynced.discard(step)

    def sync(self) -> None:
        """Have the disk keep the journal."""
        for path in [*(self._path(step) for step in sorted(self._unsynced)), self._folder]:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        self._unsynced.clear()

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _open(self, step: int, create: bool) -> None:
        flags = os.O_WRONLY | os.O_CLOEXEC | (os.O_CREAT | os.O_TRUNC if create else 0)
        self._descriptor = os.open(self._path(step), flags, 0o644)
        self.step = step

    def _write(self, data: bytes) -> None:
        """Append at the end, or leave the end where it was."""
        assert self.step is not None
        self._unsynced.add(self.step)
        left, place = memoryview(data), self._end
        try:
            while left:
                written = os.pwrite(self._descriptor, left, place)
                left, place = left[written:], place + written
        except OSError as error:
            os.ftruncate(self._descriptor, self._end)
            if error.errno not in FULL:
                raise
            raise disk_full(self._path(self.step), error) from None
        self._end = place

    def _path(self, step: int) -> Path:
        return self._folder / f"{self._writer}-{step:08d}.undo"


def undo(epoch: Epoch, words: int) -> Iterator[tuple[Ids, Words]]:
    """The ids and old records of an epoch, in the order in which to put them back."""
    with epoch.path.open("rb") as file:
        for place, size in reversed(list(_blocks(epoch.path, words))):
            file.seek(place)
            raw = file.read(size)
            count = _BLOCK.unpack_from(raw)[2]
            ids = np.frombuffer(raw, np.int64, count, _BLOCK.size)
            records = np.frombuffer(raw, np.uint32, count * words, _BLOCK.size + 8 * count)
            yield ids, records.reshape(count, words)


def empty(epoch: Epoch) -> None:
    """Leave only the epoch's mark."""
    os.truncate(epoch.path, _HEADER.size)


def _blocks(path: Path, words: int) -> Iterator[tuple[int, int]]:
    """Place and size of every whole block, up to the first that is torn."""
    with path.open("rb") as file:
        place = file.seek(_HEADER.size)
        while len(head := file.read(_BLOCK.size)) == _BLOCK.size:
            magic, crc, count = _BLOCK.unpack(head)
            length = count * (8 + 4 * words)
            if magic != _BLOCK_MAGIC or count > _ROWS:
                return
            body = file.read(length)
            if len(body) < length or zlib.crc32(body) != crc:
                return
            yield place, _BLOCK.size + length
            place += _BLOCK.size + length


def _header(words: int, step: int) -> bytes:
    start = struct.pack("<8sIQ", _HEADER_MAGIC, words, step)
    return _HEADER.pack(_HEADER_MAGIC, words, step, zlib.crc32(start))
