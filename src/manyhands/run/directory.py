"""The run directory: one execution of a job, as files. `docs/run-directory.md` specifies it."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any, TypeVar

from manyhands.errors import UsageError, UserError
from manyhands.run.commands import ANSWERS, Answer, Command, Refused, Show, Status, Watch
from manyhands.run.lock import is_taken, let_go, sign, signed_by, take
from manyhands.wire import MessageError, encode

A = TypeVar("A", bound=Answer)


class RunDirectory:
    """Names and access to what a run leaves behind."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run = path / "run.json"
        self.result = path / "result.json"
        self.ledger = path / "ledger.jsonl"
        self.metrics = path / "metrics.jsonl"
        self.timeline = path / "timeline.json.gz"
        self.report = path / "report.html"
        self.log = path / "log.txt"
        self.checkpoints = path / "checkpoints"
        self.control = path / "control.sock"
        self._lock: int | None = None

    @staticmethod
    def open(path: Path) -> RunDirectory:
        """A directory that holds a run.

        Raises:
            UsageError: it does not.
        """
        directory = RunDirectory(path)
        if not directory.run.is_file():
            raise UsageError(f"{path} holds no run: it has no run.json. Give the directory that `train` printed.")
        return directory

    def create(self) -> None:
        """Make the directory.

        Raises:
            UsageError: it holds a run already, or cannot be made.
        """
        if self.run.exists():
            raise UsageError(f"{self.path} holds a run already. Go on with it: --resume {self.path}, or give another.")
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"cannot make the run directory {self.path}: {error.strerror}.") from None

    def acquire(self) -> None:
        """Become the directory's only supervisor, until this process ends.

        Raises:
            UsageError: another process is; names it.
        """
        self._lock = take(self.path / "lock")
        if self._lock is None:
            holder = signed_by(self.path / "lock")
            raise UsageError(
                f"the run {self.path} is in use by another supervisor (process {holder}). Stop it first: "
                f"manyhands stop {self.path}"
            )
        sign(self._lock)

    def release(self) -> None:
        """Be the directory's supervisor no more."""
        if self._lock is not None:
            let_go(self._lock)
            self._lock = None

    def is_live(self) -> bool:
        """Whether a supervisor holds the directory."""
        return is_taken(self.path / "lock")

    def listen(self) -> socket.socket:
        """The socket on which the supervisor takes commands."""
        self.control.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with _Folder(self.path) as folder:
            listener.bind(f"{folder}/{self.control.name}")
        listener.listen(8)
        return listener

    def ask(self, command: Command, answer: type[A], timeout: float = 10.0) -> A:
        """Send the run's supervisor a command and return its answer, which is to be of that type.

        Raises:
            UserError: no supervisor runs, or it refuses; the text says why.
        """
        try:
            with self._dial(timeout) as link:
                link.send(json.dumps(encode(command)).encode())
                said = json.loads(link.recv(1 << 17))  # nothing, if it has ended
        except (OSError, ValueError, RecursionError):
            if self.is_live():
                raise UserError(
                    f"the supervisor of {self.path} does not answer: it starts, ends or is busy. Try again."
                ) from None
            raise UserError(
                f"the run {self.path} has no running supervisor. Start it again: manyhands train --resume {self.path}"
            ) from None
        try:
            found = ANSWERS.decode(said)
        except MessageError as error:
            raise UserError(f"the supervisor of {self.path} answered nonsense ({error}).") from None
        if isinstance(found, Refused):
            raise UserError(found.error)
        if not isinstance(found, answer):
            raise UserError(f"the supervisor of {self.path} answered something else.")
        return found

    def show(self) -> Status:
        """How the run stands.

        Raises:
            UserError: no supervisor says so.
        """
        return self.ask(Show(), Status)

    def watch(self) -> socket.socket:
        """A link on which the run's supervisor sends a `Status`, as JSON, whenever it changes; closed when the run
        ends.

        Raises:
            OSError: no supervisor listens.
        """
        link = self._dial(10.0)
        link.send(json.dumps(encode(Watch())).encode())
        return link

    def _dial(self, timeout: float) -> socket.socket:
        link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        link.settimeout(timeout)
        try:
            with _Folder(self.path) as folder:
                link.connect(f"{folder}/{self.control.name}")
        except OSError:
            link.close()
            raise
        return link


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w") as file:
        json.dump(value, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def new_directory(name: str) -> Path:
    """Make the directory runs/NAME-TIME, or one with a number behind that, of several that are begun in one second.

    Raises:
        UsageError: it cannot be made.
    """
    base = Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    path, count = base, 1
    while True:
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            if not path.is_dir():
                raise UsageError(f"cannot make a run directory in {base.parent}: {path} is a file.") from None
        except OSError as error:
            raise UsageError(f"cannot make the run directory {path}: {error.strerror}.") from None
        count += 1
        path = base.with_name(f"{base.name}-{count}")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if there is none.

    Raises:
        UserError: the file holds something else.
    """
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{path} is damaged: it is no JSON object. Put it back as it was, or begin a new run.")
    return found


class _Folder:
    """A short name for a folder: socket addresses are limited to 107 bytes, paths are not."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> str:
        self._descriptor = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY)
        return f"/proc/self/fd/{self._descriptor}"

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)
