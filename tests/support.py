"""What the multi-process tests share: runs as a user starts them, with hard deadlines, and faults."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import pytest
import warm
from deadlines import DEADLINE, PATIENT, QUIET, Deadline

from manyhands.errors import UserError
from manyhands.run import Command, Done, Resize, RunDirectory, Show, Status, read_journal

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"


CHECKED = ("--check", "on")
"""Flags of a training that checks itself, as every training of a user does."""


def command(*arguments: object) -> list[str]:
    """The words of a command of manyhands. A training is patient, unless they say how patient it is. Nor does it
    check itself before it trains, which takes a core a second or two, unless they say so or everything is as a user has
    it (`make test-all`)."""
    words = [str(argument) for argument in arguments]
    said = {word.partition("=")[0] for word in words}
    if words[:1] == ["train"] and "--patience" not in said and "--startup-patience" not in said:
        words[1:1] = PATIENT
    if words[:1] == ["train"] and "--check" not in said and not warm.COLD:
        words[1:1] = ["--check=off"]
    return [sys.executable, "-m", "manyhands", *words]


def cli(*arguments: object, **options) -> subprocess.CompletedProcess:
    """Run a command to its end."""
    options.setdefault("timeout", DEADLINE)
    return warm.run(command(*arguments), **options)


def side_by_side(*calls: Callable) -> list:
    """The results of calls that wait for processes: as many at a time as there are cores."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]


def chosen(request: pytest.FixtureRequest, name: str) -> list:
    """The values of the parameter `name` that the selected tests of this module have."""
    specs = [getattr(item, "callspec", None) for item in request.session.items if item.module is request.module]
    return list(dict.fromkeys(spec.params[name] for spec in specs if spec and name in spec.params))


def train(directory: Path, job_file: Path, *flags: object, workers: int = 2, job: tuple = ()) -> dict:
    """Train to the end and return `result.json`."""
    done = cli("train", job_file, "--workers", workers, "--run-dir", directory, *flags, "--", *job)
    assert done.returncode == 0, done.stderr
    return json.loads((directory / "result.json").read_text())


class Run:
    """A training in the background, as a user has it. A fixture ends those that a test leaves running."""

    started: list[Run] = []

    def __init__(self, directory: Path, *arguments: object, start: Callable = warm.popen) -> None:
        self.directory = RunDirectory(directory)
        self.log = (directory.parent / f"{directory.name}.stderr").open("w+")
        words = command("train", *arguments)
        self.process = start(words, stderr=self.log, stdout=subprocess.DEVNULL)
        Run.started.append(self)

    @staticmethod
    def begin(directory: Path, job_file: Path, *flags: object, workers: int = 2, job: tuple = (), **how) -> Run:
        return Run(directory, job_file, "--workers", workers, "--run-dir", directory, *flags, "--", *job, **how)

    @staticmethod
    def resume(directory: Path, *flags: object, **how) -> Run:
        return Run(directory, "--resume", directory, *flags, **how)

    def ask(self, command: Command, answer: type = Done) -> dict:
        """A command's answer; empty if the supervisor does not answer (any more, or yet)."""
        try:
            return asdict(self.directory.ask(command, answer, DEADLINE))
        except UserError:
            return {}

    def resize(self, workers: int) -> None:
        self.until(lambda: self.ended() or self.ask(Resize(workers)), "the resize to be taken")
        assert not self.ended(), self.output()

    def workers(self, count: int) -> list[int]:
        """The processes of a gang of that size, as soon as there is one."""
        pids: list[int] = []

        def there() -> bool:
            pids[:] = [worker["pid"] for worker in self.show().get("workers", [])]
            return self.ended() or len(pids) == count

        self.until(there, f"a gang of {count}")
        assert not self.ended(), self.output()
        return pids

    def show(self) -> dict:
        return self.ask(Show(), Status)

    def until(self, condition, what: str, seconds: float = QUIET) -> None:
        """Wait until the condition holds; fail the test, with the run's output, if it does not in time."""
        end = Deadline(seconds)
        while not condition():
            if end.passed:
                self.kill()
                raise AssertionError(f"waited {end} for {what}\n{self.output()}")
            time.sleep(0.005)

    def until_step(self, step: int) -> None:
        self.until(lambda: self.ended() or self.step() >= step, f"step {step}")
        assert not self.ended(), f"it ended before step {step} was looked at\n{self.output()}"

    def step(self) -> int:
        """Committed steps, read off the ledger's last line."""
        try:
            lines = self.directory.ledger.read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return 0
        whole = [line for line in lines[-2:] if line.endswith(b"\n")]
        return json.loads(whole[-1])["step"] if whole else 0

    def ended(self) -> bool:
        return self.process.poll() is not None

    def wait(self, seconds: float = QUIET) -> int:
        """The exit code."""
        self.until(self.ended, "the end of the run", seconds)
        return self.process.returncode

    def result(self) -> dict:
        return json.loads(self.directory.result.read_text())

    def output(self) -> str:
        self.log.flush()
        return Path(self.log.name).read_text()

    def kill(self) -> None:
        if not self.ended():
            self.process.kill()
            self.process.wait()

    def close(self) -> None:
        self.kill()
        self.log.close()


class Brake:
    """Slows down a job that has one (jobs/brake.py), to so many seconds for each forward pass, and keeps it from its
    end until it is released: whatever a test wants to do before the end, it has the time for.

    Args:
        file: where; must not exist yet.
        step: that does not end before.
    """

    def __init__(self, file: Path, step: int, seconds: float) -> None:
        self.file = file
        self.job = (f"--brake-file={file}", f"--brake-step={step}")
        self.slow_down(seconds)

    def slow_down(self, seconds: float) -> None:
        part = self.file.with_name(f"{self.file.name}.part")
        part.write_text(str(seconds))
        part.rename(self.file)

    def release(self) -> None:
        self.file.unlink()


def kill_worker(run: Run, chance: random.Random) -> bool:
    """SIGKILL a random worker; whether there was one."""
    workers = run.show().get("workers", [])
    if not workers:
        return False
    try:
        os.kill(chance.choice(workers)["pid"], signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def ledger_positions(directory: Path, samples: int) -> list[tuple[int, int]]:
    """Every (epoch, position) that the ledger says was trained on, in order."""
    positions = []
    for line in read_journal(directory / "ledger.jsonl"):
        for position in range(line["first"], line["last"] + 1):
            positions.append((line["epoch"] + position // samples, position % samples))
    return positions
