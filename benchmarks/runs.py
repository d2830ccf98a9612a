"""Runs of `manyhands train` as a benchmark sees them: from outside, as another process."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, Self

from common import ROOT, tail

from manyhands import UserError
from manyhands.run import Done, RunDirectory, Stop, read_journal, read_json

_POLL_SECONDS = 0.002
"""Resolution of what is timed here; looking at two files this often takes about 1 % of a core."""


class Tail:
    """The lines that are added to a file of JSON lines, which need not exist yet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._torn = b""

    def new(self) -> list[dict[str, Any]]:
        """The whole lines since the last call."""
        if self._file is None:
            if not self._path.exists():
                return []
            self._file = self._path.open("rb", buffering=0)
        added = self._file.read()
        if not added:
            return []
        *lines, self._torn = (self._torn + added).split(b"\n")
        return [json.loads(line) for line in lines]


class Run:
    """A training run in a process group of its own, ended at the latest when the `with` block is left.

    Args:
        directory: the run directory, which must not exist.
        job_file: what to train.
        flags: the job's flags.
        options: the flags of `manyhands train`, besides `--run-dir`.
    """

    def __init__(self, directory: Path, job_file: Path, flags: Sequence[str], options: Sequence[str]) -> None:
        self.files = RunDirectory(directory)
        self.output = directory.with_suffix(".out")
        self._command = [
            *(sys.executable, "-m", "manyhands", "train", str(job_file), "--run-dir", str(directory)),
            *("--quiet", *options, "--", *flags),
        ]

    def __enter__(self) -> Self:
        self.output.parent.mkdir(parents=True, exist_ok=True)
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                self._command, cwd=ROOT, stdout=output, stderr=output, start_new_session=True
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)  # its template and workers die with it
            self.process.wait()

    def finish(self, deadline: float) -> dict[str, Any]:
        """Wait for the run to end by itself; its result.

        Raises:
            RuntimeError: it failed, or had not ended after `deadline` seconds.
        """
        try:
            code = self.process.wait(deadline)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"the run took over {deadline:.0f} s:\n{tail(self.output)}") from None
        if code not in (0, 130):
            raise RuntimeError(f"the run ended with code {code}:\n{tail(self.output)}")
        return read_json(self.files.result)

    def stop(self, deadline: float = 120.0) -> dict[str, Any]:
        """Ask the run to stop at its next step boundary, and wait for that; its result."""
        self.files.ask(Stop(), Done)
        return self.finish(deadline)

    def status(self) -> dict[str, Any]:
        """What `manyhands show` tells; empty while the run starts."""
        try:
            return asdict(self.files.show())
        except UserError:
            return {}

    def wait_for(self, what: str, reached: Callable[[], bool], deadline: float) -> None:
        """Look again and again until something has happened.

        Raises:
            RuntimeError: it had not after `deadline` seconds, or the run ended first.
        """
        until = time.monotonic() + deadline
        while not reached():
            if self.process.poll() is not None:
                raise RuntimeError(f"the run ended before {what}:\n{tail(self.output)}")
            if time.monotonic() > until:
                raise RuntimeError(f"{what}: not within {deadline:.0f} s:\n{tail(self.output)}")
            time.sleep(0.02)

    def wait_for_step(self, step: int, deadline: float = 180.0) -> None:
        """Wait until `step` is committed."""
        self.wait_for(f"step {step}", lambda: self.status().get("step", 0) >= step, deadline)


@dataclass(frozen=True)
class Kill:
    """What one SIGKILL did.

    A step counts as the next committed one only if the new generation computed it: what survivors still had
    to report, and steps that are computed again, do not.
    """

    seconds: float | None
    """From the signal to the next committed step in the ledger; None if there was none in time."""
    victim: int
    """Rank of the worker that was killed."""
    recomputed: int
    """Steps that were in the ledger already and had to be computed again."""
    generations: int = 1
    """Times that the workers had to be brought together until they committed a step."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def kill_and_time(
    run: Run, workers: int, chance: random.Random, deadline: float, delay: tuple[float, float] = (0.3, 1.0)
) -> Kill:
    """Kill a random worker of a run that is at work, at a random moment, and time its recovery."""
    ledger, metrics = Tail(run.files.ledger), Tail(run.files.metrics)
    ledger.new(), metrics.new()
    run.wait_for("a whole gang", lambda: len(run.status().get("workers", [])) == workers, deadline)
    time.sleep(chance.uniform(*delay))
    victim = chance.choice(run.status()["workers"])
    began = time.perf_counter()
    os.kill(victim["pid"], signal.SIGKILL)
    origin = committed = None
    last = generations = 0
    while (took := time.perf_counter() - began) < deadline:
        for line in metrics.new():
            if line["kind"] == "membership" and (started := re.search(r"from step (\d+)$", line["event"])):
                origin, committed = int(started[1]), line["step"]
                generations += 1
        for line in ledger.new():
            last = line["step"]
        if origin is not None and committed is not None and last > max(origin, committed):
            return Kill(took, victim["rank"], max(0, committed - origin), generations)
        time.sleep(_POLL_SECONDS)
    return Kill(None, victim["rank"], 0, generations)


def samples_per_second(directory: RunDirectory, batch_size: int, warm_up: float = 0.2) -> float:
    """Throughput from the times at which steps were committed, without the first share of them.

    Everything that happens between two steps is in it: snapshots, checkpoints, journals, reports.
    """
    steps = [line for line in read_journal(directory.metrics) if line["kind"] == "step"]
    rows = steps[int(warm_up * len(steps)) :]
    # Steps are reported in bunches, about every 50 ms: count from the end of the first to that of the last.
    first = next(a for a, b in pairwise(rows) if b["time"] - a["time"] > 0.005)
    last = rows[-1]
    return (last["step"] - first["step"]) * batch_size / (last["time"] - first["time"])


def torchrun(script: Path, flags: Sequence[str], options: Sequence[str] = ("--standalone",)) -> list[str]:
    """The command that starts a script in two processes under torchrun."""
    return [sys.executable, "-m", "torch.distributed.run", *options, "--nproc_per_node=2", str(script), *flags]
