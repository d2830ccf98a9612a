"""Going back: a table as it was at a mark, whatever its writers did since and however they ended."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from manyhands.tables.header import WRITERS, Slot, check_boot, lock, read_facts
from manyhands.tables.journal import empty, epochs, folder_of, undo
from manyhands.tables.records import Records
from manyhands.tables.spec import TableError


def marks(path: Path) -> dict[int, list[int]]:
    """Steps that each writer marked and did not forget: writer -> steps. Empty if there is no file."""
    if not path.exists():
        return {}
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        words = read_facts(descriptor, path)["words"]
    finally:
        os.close(descriptor)
    found: dict[int, list[int]] = {}
    for epoch in epochs(folder_of(path), words):
        found.setdefault(epoch.writer, []).append(epoch.step)
    return found


def roll_back(path: Path, step: int) -> int:
    """Bring a table back to the moment of `mark(step)`, undoing what all writers changed since. Nobody may have it
    open.

    May be killed and run again. The mark itself stays, so it can be rolled back to again. Marks that are complete on
    every writer are exact; a step that one writer marked and another did not reach (`marks` tells) is not.

    Returns:
        Rows that were put back, counted once for each epoch.

    Raises:
        TableError: there is no such mark, or it was forgotten; the file is open, or the machine went down since the
            last sync. Nothing has changed.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        lock(descriptor, fcntl.LOCK_EX, path, "is open in another process")
        check_boot(descriptor, path)
        facts = read_facts(descriptor, path)
        rows, words = facts["rows"], facts["words"]
        found = epochs(folder_of(path), words)
        _check_mark(descriptor, path, step, [epoch.step for epoch in found])
        Slot(descriptor, 0).changing()
        records = Records(descriptor, path, rows, words, resident=1 << 28)
        count = 0
        for epoch in reversed([epoch for epoch in found if epoch.step >= step]):
            for ids, old in undo(epoch, words):
                records.scatter(ids, old)
                count += len(ids)
        records.close()
        for epoch in reversed([epoch for epoch in found if epoch.step >= step]):
            if epoch.step > step:
                epoch.path.unlink()
            else:
                empty(epoch)
        return count
    finally:
        os.close(descriptor)


def _check_mark(descriptor: int, path: Path, step: int, steps: list[int]) -> None:
    oldest = max(Slot(descriptor, writer).oldest for writer in range(WRITERS))
    if step not in steps or step < oldest:
        there = ", ".join(str(s) for s in sorted(set(steps)) if s >= oldest) or "none"
        raise TableError(f"{path} cannot go back to step {step}: the steps that it can go back to are: {there}.")
