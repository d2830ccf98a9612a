"""A controller of its own for a test: a home in a temporary folder, and commands as a user gives them."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import warm
from deadlines import PATIENT, QUIET, Deadline
from support import ROOT, cli

from manyhands.jobs.controller import Client, Home

JOB = ROOT / "tests" / "jobfiles" / "tiny.py"


class TestHome:
    """Commands with `MANYHANDS_HOME` set."""

    __test__ = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self.environment = {**os.environ, "MANYHANDS_HOME": str(path)}

    def cli(self, *arguments: object):
        return cli(*arguments, env=self.environment)

    def do(self, *arguments: object) -> str:
        """A command that has to succeed; what it prints."""
        done = self.cli(*arguments)
        assert done.returncode == 0, f"{arguments}: {done.stderr}{self.log()}"
        return done.stdout

    def up(self, *flags: object) -> str:
        return self.do("up", "--port", 0, *flags)

    def submit(self, *flags: object, job: tuple = (), file: Path = JOB) -> int:
        quick = () if warm.COLD else ("--check=off",)  # as support.command has it
        return json.loads(self.do("submit", file, "--json", *PATIENT, *quick, *flags, "--", *job))["id"]

    def show(self) -> dict:
        """What `jobs --json` prints, without starting Python for it."""
        return Client(Home(self.path)).get("/api/cluster")

    def job(self, number: int) -> dict:
        return next(job for job in self.show()["jobs"] if job["id"] == number)

    def until(self, condition, what: str, seconds: float = QUIET) -> dict:
        """Wait until the condition holds of what `jobs` shows; returns that."""
        end = Deadline(seconds)
        while True:
            shown = self.show()
            if condition(shown):
                return shown
            assert not end.passed, f"waited {end} for {what}\n{json.dumps(shown, indent=1)}\n{self.log()}"
            time.sleep(0.05)

    def until_job(self, number: int, *statuses: str, step: int = 0, workers: int | None = None) -> dict:
        """Wait until a job is in one of these statuses, so far, with so many workers."""

        def there(shown: dict) -> bool:
            job = next(job for job in shown["jobs"] if job["id"] == number)
            size = workers is None or len(job["workers"]) == workers == len(job["slots"])
            return job["status"] in statuses and job["step"] >= step and size

        shown = self.until(there, f"job {number} to be {' or '.join(statuses)}")
        return next(job for job in shown["jobs"] if job["id"] == number)

    def log(self) -> str:
        parts = [self.path / "controller.log", *sorted(self.path.glob("jobs/*/output.txt"))]
        return "\n".join(f"--- {part}\n{part.read_text()[-3000:]}" for part in parts if part.exists())

    def pid(self) -> int:
        return json.loads((self.path / "controller.json").read_text())["pid"]

    def kill_controller(self) -> None:
        pid = self.pid()
        os.kill(pid, signal.SIGKILL)
        while Path(f"/proc/{pid}").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
            time.sleep(0.01)

    def close(self) -> None:
        """End everything that it started."""
        done = self.cli("down", "--leave")
        assert done.returncode == 0 or "no controller runs" in done.stderr, done.stderr
        for path in self.path.glob("jobs/*/lock"):
            pid = path.read_text()
            if pid.isdecimal() and (Path("/proc") / pid).exists() and str(path.parent) in _command(int(pid)):
                os.kill(int(pid), signal.SIGKILL)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""
