"""Several jobs on one slot take turns, as one of `plan.WAYS` says.

A token is a lock on a byte of a file, which the kernel takes back from a worker that dies. Before it, one queues on a
second byte: who has just let go cannot take the token again before the one who waits.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

from manyhands.errors import UserError
from manyhands.plan import WAYS
from manyhands.run.lock import region

_BYTES = {"compute": 0, "forward": 2, "backward": 4}
"""The byte of each token in the slot's file; the next one is its queue."""


class Turns:
    """One worker's place on a shared slot: a gate for its recorder.

    Args:
        file: of the slot; made if it is not there, and so is its folder.
        way: one of `plan.WAYS`.
        settle: called before a token is let go: what the phase began on a device has to be over by then.

    Raises:
        UserError: another user may have put the file there.
    """

    def __init__(self, file: Path, way: str, settle: Callable[[], None] = lambda: None) -> None:
        self._file = _open(file)
        self._way, self._table = way, WAYS[way]
        self._settle = settle
        self._has: str | None = None

    def __call__(self, phase: str, waits: Callable[[], None]) -> None:
        """Have the token that a phase needs, and no other; `waits` is called before this waits."""
        token = "compute" if self._way == "alone" else self._table.get(phase)
        if token == self._has:
            return
        self._let_go()
        if token is not None:
            self._take(token, waits)

    def close(self) -> None:
        """Let go of everything."""
        os.close(self._file)

    def _take(self, token: str, waits: Callable[[], None]) -> None:
        place, queue = _BYTES[token], _BYTES[token] + 1
        if not (self._try(queue) and self._try(place)):
            waits()
            self._lock(queue)
            self._lock(place)
        self._unlock(queue)
        self._has = token

    def _let_go(self) -> None:
        if self._has is not None:
            self._settle()
            self._unlock(_BYTES[self._has])
            self._has = None

    def _try(self, byte: int) -> bool:
        try:
            fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, region(fcntl.F_WRLCK, byte, 1))
        except OSError:
            return False
        return True

    def _lock(self, byte: int) -> None:
        fcntl.fcntl(self._file, fcntl.F_OFD_SETLKW, region(fcntl.F_WRLCK, byte, 1))

    def _unlock(self, byte: int) -> None:
        fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, region(fcntl.F_UNLCK, byte, 1))


def _open(file: Path) -> int:
    """A slot's file, in a folder of this user alone: in shared memory others may have made one of that name.

    Neither the folder nor the file may be a link: it could lead to any file that this user may write.
    """
    with contextlib.suppress(FileExistsError):
        file.parent.mkdir(mode=0o700)
    try:
        folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            found = os.fstat(folder)
            if found.st_uid != os.geteuid() or found.st_mode & 0o077:
                raise UserError(
                    f"jobs cannot take turns by {file}: other users may write there. Remove the folder {file.parent}."
                )
            return os.open(file.name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise UserError(f"jobs cannot take turns by {file}: {error.strerror}. Remove {file.parent}.") from None
