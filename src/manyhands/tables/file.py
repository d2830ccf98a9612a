"""A table in a mapped file: it may exceed memory, takes space only for rows that were used, and can go back to a step.

A row's record is a mark and fp32 values: its own, then its optimizer's state. The mark says whether the row was ever
changed (0: no; its values are those of `initial.py`, and its bytes a hole in the file) and in which epoch last
(step + 2; 1 outside of any), which tells at no cost whether its old bytes are in the undo journal already.

What survives:

- **A process that is killed**, at any moment: everything. What was stored in the mapping or the journal belongs to
  the kernel. An update that was under way is whole, absent or torn; `roll_back` to the last mark undoes it, and so
  must be run before the file is used again.
- **A machine that goes down**: everything up to the last `sync` or `close`, if nothing was changed after it. If
  something was, pages may have reached the disk or not, in any order, rows and journal alike; the file is refused
  then.

Several processes of a host may have the same file open, each under its own `writer` number and each changing rows
that no other changes (servers own the rows whose id modulo their number is their rank). Who owns a row may change at
a mark.
"""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from manyhands.errors import UsageError
from manyhands.tables.header import PAGE, WRITERS, Slot, check_boot, check_facts, lock, read_facts, write_header
from manyhands.tables.initial import hash_words, initial_rows
from manyhands.tables.journal import Journal, folder_of
from manyhands.tables.records import FULL, Records, disk_full, file_bytes, map_bytes
from manyhands.tables.spec import TableSpec
from manyhands.tables.sums import Rows

_CHANGED = 1
"""The mark of a row that was changed outside of any epoch."""


class TableFile:
    """A table's file, open for one writer. Creates it if there is none.

    Args:
        path: of the file; its undo journals are beside it, in `PATH.undo`.
        spec: what the table is.
        writer: number of this process among those of the host that write to the file, 0 to 63.
        resident: bytes of the file that may be mapped before they are dropped from the resident set.

    Raises:
        TableError: the file is another table's, or in use by the same writer, or the machine went down since its last
            sync, or the disk cannot hold it.
    """

    def __init__(self, path: Path, spec: TableSpec, writer: int = 0, resident: int = 1 << 30) -> None:
        if not 0 <= writer < WRITERS:
            raise UsageError(f"{path}: a table has at most {WRITERS} writers on a host; this is number {writer}.")
        self.path, self.spec = path, spec
        if not path.exists():
            _create(path, spec)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._lock = -1
        try:
            check_facts(path, read_facts(self._descriptor, path), spec.facts())
            lock(self._descriptor, fcntl.LOCK_SH, path, "is being rolled back")
            check_boot(self._descriptor, path)
            folder_of(path).mkdir(exist_ok=True)
            self._lock = os.open(folder_of(path) / f"{writer}.lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
            lock(self._lock, fcntl.LOCK_EX, path, f"is open as writer {writer} in another process")
        except BaseException:
            self._close_descriptors()
            raise
        self._slot = Slot(self._descriptor, writer)
        self._journal = Journal(folder_of(path), writer, spec.words)
        self._records = Records(self._descriptor, path, spec.rows, spec.words, resident)

    def read(self, ids: Tensor) -> Tensor:
        """The rows `ids` (int64 [n], in any order, any number of times) as a new fp32 tensor [n, width].

        Raises:
            IndexError: an id is not below the number of rows.
        """
        places = ids.numpy()
        records = self._records.gather(places)
        values = records[:, 1 : 1 + self.spec.width].copy().view(np.float32)
        fresh = np.flatnonzero(records[:, 0] == 0)
        if len(fresh):
            values[fresh] = initial_rows(places[fresh], self.spec.width, self.spec.seed, self.spec.std)
        return torch.from_numpy(values)

    def update(self, ids: Tensor, grads: Tensor, scale: float = 1.0) -> None:
        """Apply gradients (fp32 [n, width]) to the rows `ids` (int64 [n], each once).

        Args:
            scale: factor on the optimizer's learning rate.

        Raises:
            TableError: the disk is full; no row has changed.
        """
        spec, places = self.spec, ids.numpy()
        records = self._records.gather(places)
        fresh = np.flatnonzero(records[:, 0] == 0)
        self._slot.changing()
        self._records.reserve(places[fresh])
        step = self._journal.step
        mark = _CHANGED if step is None else step + 2
        if step is not None:
            known = records[:, 0] == mark
            self._journal.append(*((places, records) if not known.any() else (places[~known], records[~known])))
        values = records[:, 1 : 1 + spec.width].view(np.float32)
        state = records[:, 1 + spec.width :].view(np.float32)
        if len(fresh):
            values[fresh] = initial_rows(places[fresh], spec.width, spec.seed, spec.std)
            state[fresh] = spec.optimizer.initial_state
        spec.optimizer.update(values, state, grads.numpy(), scale)
        records[:, 0] = mark
        self._records.scatter(places, records)

    def mark(self, step: int) -> None:
        """Begin an epoch: from now on `roll_back(path, step)` brings back the table as it is at this moment.

        Every writer of the file has to mark the step. Marking the present step again changes nothing, if nothing has
        changed.

        Raises:
            UsageError: the step is not after that of the last mark.
            TableError: the disk is full.
        """
        last = self._journal.step
        if last == step and self._journal.is_fresh:
            return
        if step < 0 or (last is not None and step <= last):
            raise UsageError(
                f"{self.path} cannot be marked at step {step}: its last mark is at step {last}. Roll back to an "
                "earlier step before you train again from there."
            )
        self._journal.mark(step)

    def forget(self, before_step: int) -> None:
        """Drop what is needed only to roll back to steps before `before_step`."""
        last = self._journal.step
        if last is not None and min(before_step, last) > self._slot.oldest:
            self._slot.forget(min(before_step, last))
            self._journal.forget(before_step)

    def sync(self) -> None:
        """Have the disk keep table and journal: they survive even the machine, until the next change."""
        self._records.sync()
        self._journal.sync()
        self._slot.synced()

    def close(self, sync: bool = True) -> None:
        """Let go of the file, and have the disk keep it before, unless it is not needed any more."""
        if sync:
            self.sync()
        self._records.close()
        self._journal.close()
        self._close_descriptors()

    def changed(self) -> Iterator[tuple[Rows, Tensor]]:
        """All rows that were ever changed, by whichever writer, in order of their ids: the rows, and their optimizer's
        state. Skips holes, so it costs what the file takes on disk."""
        for ids, records in self._records.used():
            values = records[:, 1:].copy().view(np.float32)
            rows, state = values[:, : self.spec.width].copy(), values[:, self.spec.width :].copy()
            yield Rows(torch.from_numpy(ids), torch.from_numpy(rows)), torch.from_numpy(state)

    def digest(self) -> int:
        """A 64-bit checksum of all rows and their state. The digests of files that hold different rows of a table add
        up, modulo 2**64, to that of a file that holds them all."""
        total = 0
        for ids, records in self._records.used():
            words = records[:, 1:].astype(np.uint64)
            words += np.arange(1, words.shape[1] + 1, dtype=np.uint64) << np.uint64(32)
            rows = hash_words(words).sum(axis=1, dtype=np.uint64) + hash_words(ids.astype(np.uint64))
            total += int(hash_words(rows).sum(dtype=np.uint64))
        return total % (1 << 64)

    def _close_descriptors(self) -> None:
        for descriptor in (self._descriptor, self._lock):
            if descriptor >= 0:
                os.close(descriptor)


def _create(path: Path, spec: TableSpec) -> None:
    """A file without any row. Of two processes that do this at once, one's file stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            write_header(descriptor, spec.facts())
            os.ftruncate(descriptor, file_bytes(spec.rows, spec.words))
            os.posix_fallocate(descriptor, PAGE, map_bytes(spec.rows, spec.words))
        finally:
            os.close(descriptor)
        os.link(partial, path)
    except FileExistsError:
        pass
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise disk_full(path, error) from None
    finally:
        partial.unlink(missing_ok=True)
