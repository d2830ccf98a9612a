"""Rows of a mapped file: gathered, scattered, and never more resident than they may be.

Problem: pages of a mapped file count into the process's resident set for as long as they are mapped, and touching a
hole of the file kills the process (SIGBUS) when the disk is full; in a tmpfs, reading does. Ideas:

- A read through the mapping maps as many pages around the one it wants as the kernel likes (16 as a rule, 64 have been
  seen), a write maps one. So only pages that were written since the mapping was last dropped, which are the hot ones,
  are read through it, at 0.1 us a row, and all others by `pread`, at 1 us.
- After every batch of rows the kernel is asked how large the process's file pages have grown (`/proc/self/statm`).
  Beyond `resident` the mapping is dropped with `MADV_DONTNEED`: changed pages stay in the page cache and go to disk in
  the kernel's time; written again, they are mapped again for some 2 us.
- A map at the beginning of the file has a byte for each of its pages (0.02 % of its length): whether the page has a
  place on disk. Only such pages are touched; a row of another was never changed, which costs no look at the disk. A
  page gets its place by a `pwrite` of zeros to a new row, which reports a full disk as an error.

    0        header
    4096     the map, a byte per page of records, padded to whole pages
    ...      records

Cost: 0.1 us for a row of a hot page, 3 us for one of another, some 10 us more for a row that is the first of its page;
a disk read where a page is not cached.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from manyhands.tables.header import PAGE
from manyhands.tables.spec import TableError

Words = NDArray[np.uint32]
Ids = NDArray[np.int64]

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a full disk."""
_BATCHES = (32, 4096)
"""Fewest and most rows between two looks."""


class Records:
    """The records behind the header of an open file.

    Args:
        rows, words: how many records, and 4-byte words of each.
        resident: bytes of file pages by which the process may grow before the mapping is dropped.
    """

    def __init__(self, descriptor: int, path: Path, rows: int, words: int, resident: int) -> None:
        self._descriptor, self._path = descriptor, path
        self._resident = resident
        self._batch = _BATCHES[0]
        self._map = mmap.mmap(descriptor, file_bytes(rows, words))
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        self._map.madvise(mmap.MADV_RANDOM)  # reading ahead would fetch 32 pages for the one that is wanted
        self._start = PAGE + map_bytes(rows, words)
        self._words = np.frombuffer(self._map, np.uint32, rows * words, self._start).reshape(rows, words)
        self._has_place = np.frombuffer(self._map, np.uint8, map_bytes(rows, words), PAGE)
        self._is_mapped = np.zeros(len(self._has_place), bool)
        self._statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        self._base = self._last = self._mapped()

    def gather(self, ids: Ids) -> Words:
        """Copies of the records `ids` [n]: [n, words]."""
        out = np.empty((len(ids), self._words.shape[1]), np.uint32)
        for some in self._batches(len(ids)):
            batch, part = ids[some], out[some]
            pages = self._pages(batch)
            near = np.logical_and.reduce([self._is_mapped[page] for page in pages])
            if near.all():
                part[:] = self._words[batch]
                continue
            there = np.logical_and.reduce([self._has_place[page] for page in pages]).astype(bool)
            far = there & ~near
            part[near] = self._words[batch[near]]
            part[far] = self._read(batch[far])
            part[~there] = 0
        return out

    def scatter(self, ids: Ids, records: Words) -> None:
        """Write records back. Their place on disk exists."""
        for some in self._batches(len(ids)):
            self._words[ids[some]] = records[some]
            for pages in self._pages(ids[some]):
                self._is_mapped[pages] = True

    def reserve(self, ids: Ids) -> None:
        """Give records that are all zero their place on disk.

        Raises:
            TableError: the disk is full.
        """
        pages = np.concatenate(self._pages(ids))
        _, first = np.unique(pages, return_index=True)  # one record of every page will do
        first = first[self._has_place[pages[first]] == 0]
        chosen = ids[np.unique(first % max(1, len(ids)))]
        zeros = bytes(4 * self._words.shape[1])
        try:
            for place in (chosen * len(zeros) + self._start).tolist():
                os.pwrite(self._descriptor, zeros, place)
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise disk_full(self._path, error) from None
        self._has_place[pages] = 1

    def used(self) -> Iterator[tuple[Ids, Words]]:
        """All records that are not zero, in order."""
        size = 4 * self._words.shape[1]
        every = np.flatnonzero(self._has_place)
        for start in range(0, len(every), _BATCHES[1]):
            pages = every[start : start + _BATCHES[1]]
            first = -(-pages * PAGE // size)  # the first record that begins in the page
            counts = -(-(pages + 1) * PAGE // size) - first
            ids = np.repeat(first - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
            ids = ids[ids < len(self._words)]
            for some in self._batches(len(ids)):
                records = self._words[ids[some]]
                changed = records[:, 0] != 0
                yield ids[some][changed], records[changed]

    def sync(self) -> None:
        """Have the disk keep all that was written, by whichever process."""
        self._map.flush()

    def close(self) -> None:
        del self._words, self._has_place
        self._map.close()
        os.close(self._statm)

    def _read(self, ids: Ids) -> Words:
        """Read records from the file, not through the mapping."""
        size = 4 * self._words.shape[1]
        raw = b"".join([os.pread(self._descriptor, size, place) for place in (ids * size + self._start).tolist()])
        return np.frombuffer(raw, np.uint32).reshape(len(ids), self._words.shape[1])

    def _pages(self, ids: Ids) -> list[Ids]:
        """The first page of every record, the second, and so on; its last where it has fewer."""
        size = 4 * self._words.shape[1]
        first, last = ids * size // PAGE, (ids * size + size - 1) // PAGE
        return [np.minimum(first + page, last) for page in range((size + PAGE - 2) // PAGE + 1)]

    def _batches(self, count: int) -> Iterator[slice]:
        """Cut `count` rows so that no part maps much: a batch is half or twice the last, by what that has mapped."""
        start = 0
        while start < count:
            mapped = self._mapped()
            if mapped - self._last > self._resident // 8:
                self._batch = max(_BATCHES[0], self._batch // 2)
            elif mapped - self._last < self._resident // 32:
                self._batch = min(_BATCHES[1], self._batch * 2)
            if mapped - self._base > self._resident:
                self._map.madvise(mmap.MADV_DONTNEED)
                self._is_mapped[:] = False
                self._base = mapped = self._mapped()
                self._batch = _BATCHES[0]
            self._base = min(self._base, mapped)  # another table may have dropped its pages
            self._last = mapped
            yield slice(start, start + self._batch)
            start += self._batch

    def _mapped(self) -> int:
        """Bytes of file pages that the process has mapped."""
        return int(os.pread(self._statm, 128, 0).split()[2]) * mmap.PAGESIZE


def map_bytes(rows: int, words: int) -> int:
    """Length of the map."""
    pages = -(-rows * words * 4 // PAGE)
    return -(-pages // PAGE) * PAGE


def file_bytes(rows: int, words: int) -> int:
    """Length of a table's file, holes included."""
    return PAGE + map_bytes(rows, words) + rows * words * 4


def disk_full(path: Path, error: OSError) -> TableError:
    """What a user can do about a full disk."""
    return TableError(
        f"cannot write {path}: {error.strerror}. Free some space, or put the table on a larger disk; then go on from "
        "the last mark or checkpoint."
    )
