"""`manyhands logs`: what a run, or a job of the controller, has printed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from manyhands.cli.command import Command
from manyhands.errors import UsageError
from manyhands.plan import Option
from manyhands.run import RunDirectory

_LOOK_SECONDS = 0.3


@dataclass(frozen=True, kw_only=True)
class Logs(Command):
    """Show what a run, or a job of the controller, has printed.

    manyhands logs RUN
    manyhands logs 3 -f
    """

    what: Annotated[str, Option("RUN|JOB", positional=True)]
    """A run's directory, or the number of one of the controller's jobs."""
    follow: Annotated[bool, Option("", short="-f")] = False
    """Go on until it is over."""

    def run(self, job_arguments: list[str]) -> int:
        if self.what.isdecimal() and not Path(self.what, "run.json").exists():
            return _print(*_of_job(int(self.what)), self.follow)
        directory = RunDirectory.open(Path(self.what))
        return _print(directory.log, lambda: not directory.is_live(), self.follow)


def _of_job(number: int) -> tuple[Path, Callable[[], bool]]:
    """Where a job's output is, and whether it is over.

    Raises:
        UsageError: there is no such job.
    """
    from manyhands.jobs.controller import Client, Home

    client = Client()

    def job() -> dict[str, Any]:
        for found in client.get("/api/cluster")["jobs"]:
            if found["id"] == number:
                return found
        raise UsageError(f"there is no job {number}. `manyhands jobs` lists those there are.")

    job()
    return Home().job(number).output, lambda: bool(job()["ended"])


def _print(output: Path, over: Callable[[], bool], follow: bool) -> int:
    """Copy a file to the terminal, and what is added to it until it is over."""
    position = 0
    while True:
        last = not follow or over()  # asked before it is read: nothing comes after that
        if output.exists():
            with output.open("rb") as file:
                file.seek(position)
                text = file.read()
            position += len(text)
            sys.stdout.write(text.decode(errors="replace"))
            sys.stdout.flush()
        if last:
            return 0
        time.sleep(_LOOK_SECONDS)
