"""A job's supervisor as the controller sees it: a process of its own, `manyhands train`, that lives on without us.

That it lives is known by the lock that it was born with: it holds it from before it exists until it is gone, whoever
started it. How it stands is heard through its run directory's socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

import manyhands.jobs.controller.checks as checks
from manyhands.errors import UserError
from manyhands.jobs.controller.storage.home import JobFiles
from manyhands.jobs.controller.trouble import complain
from manyhands.run import Command, Done, Process, Status, Stop
from manyhands.run.lock import is_taken, signed_by, take, wait_until_free
from manyhands.wire import Codec, MessageError

_ANSWER_SECONDS = 60.0
_LARGE = 1 << 53
_LISTENS_SECONDS = 0.1
"""Seconds between attempts to reach a supervisor that starts: it loads torch and the job first."""


class Gang:
    """A supervisor and the gang that it keeps at work.

    Args:
        files: the job's files.
        process: the supervisor, if it is a child of ours.
        on_news: called in the event loop when the supervisor has said how it stands.
        on_end: called there when it is gone, with its exit code if it was a child.
    """

    def __init__(
        self,
        files: JobFiles,
        process: subprocess.Popen[bytes] | None,
        on_news: Callable[[], None],
        on_end: Callable[[int | None], None],
    ) -> None:
        self._files, self._on_news = files, on_news
        self._loop = asyncio.get_running_loop()
        self.status: Status | None = None
        """What the supervisor said last of how the run stands; None until it has."""
        self.told_to_stop = False
        self.way: str | None = None if process is not None else "unknown"
        """How the gang was told to share slots; None: not at all; `unknown`: another controller may have told it."""
        self.ordering = False
        """Whether the supervisor is being told something, and has not answered."""
        self.resized = 0
        """The number of the last resize that the supervisor has accepted; 0 if there is nothing to wait for."""
        self._listener = asyncio.create_task(self._listen())

        def wait() -> None:
            with contextlib.suppress(OSError):  # somebody has removed it
                wait_until_free(files.lock)
            code = process.wait() if process is not None else None
            with contextlib.suppress(RuntimeError):  # the controller has ended meanwhile
                self._loop.call_soon_threadsafe(self._ended, code, on_end)

        threading.Thread(target=wait, daemon=True, name="manyhands-gang").start()

    @property
    def settled(self) -> bool:
        """Whether the gang is what it was told to be, or has given that up."""
        return self.status is not None and self.status.settled and self.status.resizes >= self.resized

    @property
    def workers(self) -> tuple[Process, ...]:
        """The gang's workers, in the order of ranks; none before the supervisor has said so."""
        return self.status.workers if self.status is not None else ()

    @property
    def hosts(self) -> list[str]:
        """The hosts of the gang's workers, in the order of ranks."""
        return [worker.host for worker in self.workers]

    def ask(self, command: Command) -> Done:
        """Tell the supervisor something and return its answer; blocks until that comes.

        Raises:
            UserError: the supervisor refuses, is not there, or answers nonsense.
        """
        return self._files.run.ask(command, Done, _ANSWER_SECONDS)

    def order(self, command: Command, done: Callable[[Done | UserError], None]) -> None:
        """Tell the supervisor something without waiting; `done` gets its answer, in the event loop."""
        self.ordering = True

        async def ask() -> None:
            answer: Done | UserError
            try:
                answer = await asyncio.to_thread(self.ask, command)
            except UserError as error:
                answer = error
            self.ordering = False
            done(answer)

        self._asking = asyncio.create_task(ask())

    def stop(self, done: Callable[[Done | UserError], None]) -> None:
        """Have the gang end at its next step boundary, or at once, without an answer, if it has not begun."""
        self.told_to_stop = True
        process = signed_by(self._files.lock)
        if self.status is not None or not process.isdecimal():
            self.order(Stop(), done)
        else:  # it loads the job, and hears nothing
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGINT)

    def kill(self) -> None:
        """End the supervisor at once; its workers end with it."""
        with contextlib.suppress(OSError, ValueError, OverflowError):
            os.kill(int(signed_by(self._files.lock)), signal.SIGKILL)

    def close(self) -> None:
        """Stop listening to the supervisor, which goes on."""
        self._listener.cancel()

    def _ended(self, code: int | None, on_end: Callable[[int | None], None]) -> None:
        self.close()
        on_end(code)

    def _take(self, data: bytes) -> None:
        """Take what the supervisor says; what cannot be is no news, and the page need not stumble over it."""
        try:
            self.status = _checked(json.loads(data))
        except (ValueError, RecursionError, MessageError, UserError):
            complain(f"the supervisor of {self._files.run.path} said what cannot be")
            return
        self._on_news()

    async def _listen(self) -> None:
        while True:
            try:
                link = self._files.run.watch()
            except OSError:
                await asyncio.sleep(_LISTENS_SECONDS)
                continue
            with link:
                link.setblocking(False)
                with contextlib.suppress(OSError):
                    while data := await self._loop.sock_recv(link, 1 << 20):
                        self._take(data)
            await asyncio.sleep(_LISTENS_SECONDS)


_STATUS = Codec(Status)


def _checked(said: object) -> Status:
    """What a supervisor says of itself, its numbers within bounds.

    Raises:
        MessageError: it says something else.
        UserError: a number or a name that it says cannot be.
    """
    status: Status = _STATUS.decode(said)
    for name in ("step", "total_steps", "resizes", "supervisor"):
        checks.whole(name, getattr(status, name), 0, _LARGE)
    for member in (*status.workers, *status.servers):
        checks.text("a member's host", member.host, checks.LONGEST_PATH)
        checks.whole("a member's process", member.pid, 0, _LARGE)
    finite = {name: share for name, share in status.profile.items() if math.isfinite(share)}
    return replace(status, profile=finite)


def launch(files: JobFiles, command: Sequence[str], cwd: str, umask: int = -1) -> subprocess.Popen[bytes]:
    """Start `manyhands` with these arguments, so that it outlives us.

    Args:
        command: the arguments.
        umask: for the files that it makes; -1: ours.

    Raises:
        OSError: it cannot be started in `cwd`.
        UserError: the job has a process already.
    """
    files.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    held = take(files.lock)
    if held is None:
        raise UserError(f"the job in {files.path} is being trained by another process.")
    try:
        os.ftruncate(held, 0)
        with files.output.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "manyhands", *command],
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(held,),
                start_new_session=True,
                umask=umask,
            )
        os.pwrite(held, str(process.pid).encode(), 0)
        return process
    finally:
        os.close(held)


def is_alive(files: JobFiles) -> bool:
    """Whether some process trains the job."""
    return is_taken(files.lock)
