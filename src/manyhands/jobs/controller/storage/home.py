"""Where a controller keeps what it knows: `MANYHANDS_HOME`, `~/.manyhands` by default. Paths only."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import stat
from pathlib import Path
from typing import Any

import manyhands.jobs.controller.checks as checks
from manyhands.errors import UsageError
from manyhands.jobs.controller.storage.secret import make_secret, read_secret
from manyhands.run import RunDirectory, write_json


class Home:
    """The files of a controller, by name.

    Args:
        path: the directory; by default what the environment says.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = (path or Path(os.environ.get("MANYHANDS_HOME") or Path.home() / ".manyhands")).resolve()
        self.lock = self.path / "controller.lock"
        """The lock that a controller holds as long as it lives."""
        self.address = self.path / "controller.json"
        """The file with the controller's `pid` and `port`, for clients on this machine."""
        self.log = self.path / "controller.log"
        self.database = self.path / "jobs.sqlite"
        self.secret = self.path / "controller.token"

    def make(self) -> None:
        """Make the directory, for this user alone; what is there already is taken from others' eyes, too."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.path != Path.home() and not self.path.stat().st_mode & stat.S_ISVTX:  # those are for more than us
            _close(self.path)
        database = [self.database.with_name(self.database.name + end) for end in ("", "-wal", "-shm")]
        for path in (self.path / "jobs", self.log, self.lock, self.address, *database):
            _close(path)

    @property
    def namespace(self) -> str:
        """A name that no other controller's home has, on any machine."""
        return "manyhands-" + hashlib.sha256(f"{socket.gethostname()}:{self.path}".encode()).hexdigest()[:16]

    def job(self, number: int) -> JobFiles:
        """The files of the job of this number."""
        return JobFiles(self.path / "jobs" / str(number))

    def make_secret(self) -> str:
        """The secret that clients have to know: readable by this user alone, and the same at every start.

        Raises:
            UserError: the file is damaged.
        """
        return make_secret(self.secret)

    def read_secret(self) -> str:
        """The secret that clients have to know, as a client reads it.

        Raises:
            UserError: there is no secret, or the file is damaged.
        """
        return read_secret(self.secret)

    def publish(self, address: dict[str, Any]) -> None:
        """Let clients find the controller at an address: its `pid` and `port`."""
        write_json(self.address, address)

    def published(self) -> dict[str, Any]:
        """What the last controller said of itself; empty if there was none, or if the file is damaged."""
        try:
            found = checks.table("the address", json.loads(self.address.read_bytes()), 10)
            checks.whole("port", found.get("port"), 1, 65535)
        except (OSError, ValueError, RecursionError, UsageError):
            return {}
        return found


class JobFiles:
    """What a job has on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run = RunDirectory(path / "run")
        self.lock = path / "lock"
        """The lock that the job's supervisor holds from before it exists until it is gone."""
        self.output = path / "output.txt"
        """The file with what the job's supervisor prints."""


def _close(path: Path) -> None:
    """Let nobody but this user have a file or a folder, if it is this user's and there."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    mine = found.st_uid == os.geteuid() and (stat.S_ISDIR(found.st_mode) or stat.S_ISREG(found.st_mode))
    if mine and found.st_mode & 0o077:
        path.chmod(found.st_mode & 0o700)
