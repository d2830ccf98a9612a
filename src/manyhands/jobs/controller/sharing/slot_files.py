"""The files by which jobs on one slot take turns (`training/turns.py`), in shared memory: a disk would be slow.

Everybody may make folders there. So this one has a name that nobody can guess, is made for this user alone, and what is
there already under its name is used only if this user made it so. Other hosts have it under the same name.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
from pathlib import Path

from manyhands.jobs.controller.storage.store import Store

_SETTING = "slot files"
_PREFIX = "manyhands-"


class SlotFiles:
    """The files of slots, one each; their folder is made when the first is asked for.

    Args:
        store: keeps the folder's name, so that gangs which outlive a controller meet again in the next one's files.
        root: where the folder is.
    """

    def __init__(self, store: Store, root: Path = Path("/dev/shm")) -> None:
        self._store, self._root = store, root
        name = store.setting(_SETTING)
        self._name = name if isinstance(name, str) and name.startswith(_PREFIX) and "/" not in name else ""

    def of(self, slot: int) -> Path:
        """The file of a slot.

        Raises:
            OSError: the folder cannot be made.
        """
        return self._folder() / f"slot-{slot}"

    def remove(self) -> None:
        """Remove the folder and the files in it, if it is ours."""
        if self._name and is_private(self._root / self._name):
            shutil.rmtree(self._root / self._name, ignore_errors=True)

    def _folder(self) -> Path:
        folder = self._root / self._name
        if self._name:
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode=0o700)
        if not self._name or not is_private(folder):  # for the first time, or another user has taken the name
            self._name = _PREFIX + secrets.token_hex(16)
            self._store.set([(_SETTING, self._name)])
            folder = self._root / self._name
            folder.mkdir(mode=0o700)
        return folder


def is_private(folder: Path) -> bool:
    """Whether there is a folder, no link to one, that this user owns and nobody else may enter."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077
