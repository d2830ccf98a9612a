"""Files of JSON lines that only grow: the ledger and the metrics.

A full disk must not stop the training, so a line that cannot be written is kept and tried again with the next
one. A crash may leave a torn last line; opening the journal cuts it off.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from manyhands.errors import UserError


class Journal:
    """Appends JSON lines to a file.

    Args:
        path: the file; created if missing.
        on_trouble: called with a sentence when writing begins to fail, and when it works again.
    """

    def __init__(self, path: Path, on_trouble: Callable[[str], None] = lambda text: None) -> None:
        self.path = path
        self._on_trouble = on_trouble
        self._waiting = bytearray()
        self._failing = False
        _cut_torn_line(path)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def append(self, line: dict[str, Any]) -> None:
        """Add a line; it is with the kernel when this returns, unless the disk refuses it."""
        self._waiting += json.dumps(line, separators=(",", ":")).encode() + b"\n"
        self.flush()

    def cut(self, wanted: Callable[[dict[str, Any]], bool]) -> None:
        """Take away the first line that is not wanted and all after it. No disk is too full for that."""
        written = self.path.read_bytes()
        lines, kept = (written + self._waiting).splitlines(keepends=True), 0
        for line in lines:
            if not wanted(json.loads(line)):
                break
            kept += len(line)
        self._waiting[:] = (written + self._waiting)[len(written) : kept]
        if kept < len(written):
            os.ftruncate(self._descriptor, kept)

    def keep(self, wanted: Callable[[dict[str, Any]], bool]) -> None:
        """Have only the wanted ones of the lines so far; where the disk refuses, all stay."""
        if not self.flush():
            return
        fresh = self.path.with_name(f".{self.path.name}.partial")
        try:
            with fresh.open("w") as file:
                for line in read_journal(self.path):
                    if wanted(line):
                        file.write(json.dumps(line, separators=(",", ":")) + "\n")
                file.flush()
                os.fsync(file.fileno())
            fresh.rename(self.path)
        except OSError as error:
            fresh.unlink(missing_ok=True)
            self._on_trouble(f"cannot write {fresh}: {error.strerror}. Free some space.")
            return
        os.close(self._descriptor)
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def flush(self) -> bool:
        """Try again to write what could not be written; whether nothing is left."""
        try:
            while self._waiting:
                written = os.write(self._descriptor, self._waiting)
                del self._waiting[:written]
        except OSError as error:
            if not self._failing:
                self._failing = True
                self._on_trouble(
                    f"cannot write {self.path}: {error.strerror}. Training goes on and the lines are kept in memory; "
                    "free some space."
                )
            return False
        if self._failing:
            self._failing = False
            self._on_trouble(f"{self.path} can be written again; nothing was lost.")
        return True

    def sync(self) -> bool:
        """Have the disk keep everything so far; whether it does."""
        written = self.flush()
        try:
            os.fsync(self._descriptor)
        except OSError:
            return False
        return written

    def close(self) -> None:
        """Write and sync what can be, and let go of the file."""
        self.sync()
        os.close(self._descriptor)


def read_journal(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a journal; none if there is no file.

    Raises:
        UserError: a line is no JSON object; says which.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if not raw.endswith(b"\n"):
                return
            try:
                line = json.loads(raw)
            except (ValueError, RecursionError):
                line = None
            if not isinstance(line, dict):
                raise UserError(f"line {number} of {path} is damaged: {raw[:60]!r} is no JSON object. Put it back.")
            yield line


def _cut_torn_line(path: Path) -> None:
    if not path.exists():
        return
    with path.open("rb+") as file:
        content_end = file.seek(0, os.SEEK_END)
        position = content_end
        while position > 0:
            step = min(4096, position)
            file.seek(position - step)
            found = file.read(step).rfind(b"\n")
            if found >= 0:
                position += found - step + 1
                break
            position -= step
        if position < content_end:
            file.truncate(position)
