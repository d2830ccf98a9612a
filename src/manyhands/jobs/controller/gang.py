"""A job's supervisor as the controller sees it: a process of its own, `manyhands train`, that lives on without us.

That it lives is known by the lock that it was born with: it holds it from before it exists until it is gone, whoever
started it. How it stands is heard through its run directory's socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

from manyhands.errors import UserError
from manyhands.jobs.controller.home import JobFiles
from manyhands.run.lock import is_taken, signed_by, take, wait_until_free

_ANSWER_SECONDS = 60.0
_LISTENS_SECONDS = 0.1
"""Between attempts to reach a supervisor that starts: it loads torch and the job first."""


class Gang:
    """A process that trains a job.

    Args:
        files: of the job.
        process: if it is a child of ours.
        on_news: it has said something.
        on_end: it is gone; with its exit code, if it was a child.
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
        self.status: dict[str, Any] = {}
        """What it said last (`manyhands show`); empty until it listens."""
        self.told_to_stop = False
        self.way: str | None = None if process is not None else "unknown"
        """How it was told to share its slots; None: not at all."""
        self.ordering = False
        """It is being told something."""
        self.resized = 0
        """The number of the last resize that it has accepted; 0 if there is nothing to wait for."""
        self._listener = asyncio.create_task(self._listen())

        def wait() -> None:
            wait_until_free(files.lock)
            code = process.wait() if process is not None else None
            with contextlib.suppress(RuntimeError):  # the controller has ended meanwhile
                self._loop.call_soon_threadsafe(self._ended, code, on_end)

        threading.Thread(target=wait, daemon=True, name="manyhands-gang").start()

    @property
    def settled(self) -> bool:
        """It runs as it was told to, or has given that up."""
        return bool(self.status.get("settled")) and self.status["resizes"] >= self.resized

    @property
    def hosts(self) -> list[str]:
        """Of its workers, in the order of ranks."""
        return [worker["host"] for worker in self.status.get("workers", [])]

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Tell it something; blocks.

        Raises:
            UserError: it refuses, or is not there.
        """
        return self._files.run.ask(request, _ANSWER_SECONDS)

    def order(self, request: dict[str, Any], done: Callable[[dict[str, Any] | UserError], None]) -> None:
        """Tell it something, and hand over its answer."""
        self.ordering = True

        async def ask() -> None:
            answer: dict[str, Any] | UserError
            try:
                answer = await asyncio.to_thread(self.ask, request)
            except UserError as error:
                answer = error
            self.ordering = False
            done(answer)

        self._asking = asyncio.create_task(ask())

    def stop(self, done: Callable[[dict[str, Any] | UserError], None]) -> None:
        """Have it end at its next step boundary, or at once if it has not begun."""
        self.told_to_stop = True
        process = signed_by(self._files.lock)
        if self.status or not process.isdecimal():
            self.order({"command": "stop"}, done)
        else:  # it loads the job, and hears nothing
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGINT)

    def close(self) -> None:
        """Look away; it goes on."""
        self._listener.cancel()

    def _ended(self, code: int | None, on_end: Callable[[int | None], None]) -> None:
        self.close()
        on_end(code)

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
                        self.status = json.loads(data)
                        self._on_news()
            await asyncio.sleep(_LISTENS_SECONDS)


def launch(files: JobFiles, command: Sequence[str], cwd: str) -> subprocess.Popen[bytes]:
    """Start `manyhands` with these arguments, so that it outlives us.

    Raises:
        OSError: it cannot be started there.
        UserError: the job has a process.
    """
    files.path.mkdir(parents=True, exist_ok=True)
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
            )
        os.pwrite(held, str(process.pid).encode(), 0)
        return process
    finally:
        os.close(held)


def is_alive(files: JobFiles) -> bool:
    """Whether some process trains the job."""
    return is_taken(files.lock)
