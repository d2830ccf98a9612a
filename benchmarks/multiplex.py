"""Two jobs on the same slots: what both together get done, over what one would, in every way to share.

Each job has two workers, one on each of two slots. Alone it has speed 1; together the speeds are measured in each way
(docs/jobs.md), by the trial that the controller makes. Pairs:

compute + compute      on this machine: nothing to gain
data + compute         on this machine: one job waits for its data (simulated by sleeping) while the other computes
compute + exchange     on emulated hosts, 100 Mbit/s: one moves gradients while the other computes
exchange + exchange    the same: both want the network

Expectation: 1.5 for the pairs that complement each other, and never below 0.97 with the way that is kept (a pair that
loses is parted, which is 1.0).
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from common import BENCHMARKS, arguments, console, machine, table, write_results
from migration import PIPES, agents, ask, wait_for

from manyhands.cluster import preset
from manyhands.jobs.controller.sharing.trial import TRIED, Mark, Tried, trial
from manyhands.lab import Lab, obstacle
from manyhands.run import RunDirectory, ShareSlots

JOB = BENCHMARKS / "jobs" / "mixed.py"
PAIRS = {
    "here": [("compute", "compute"), ("data", "compute")],
    "lab": [("exchange", "compute"), ("exchange", "exchange")],
}
ROUNDS = 3
SECONDS = 5.0
RATE = "100 Mbit/s"
Start = Callable[[list[str]], Any]


class Training:
    """A run, as a trial needs it."""

    def __init__(self, directory: RunDirectory, files: tuple[str, ...]) -> None:
        self.directory, self.files = directory, files

    def mark(self) -> Mark | None:
        status = self.directory.show()
        return Mark(status.step, status.at) if status.at is not None else None

    async def share(self, way: str | None) -> None:
        ask(self.directory, ShareSlots(way, self.files))


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--places", default=",".join(PAIRS))
    options = parser.parse_args()
    rounds, seconds = (1, 1.0) if options.quick else (options.rounds, SECONDS)
    facts, rows = machine(), []
    for place in options.places.split(","):
        pairs = PAIRS[place]
        if place == "lab" and (reason := obstacle()):
            console.print(f"lab is left out: {reason}")
            continue
        with PLACES[place]() as (start, options_of):
            for pair in pairs:
                rows.append(measure(pair, place, start, options_of, rounds, seconds))
    columns = ["pair", "place", *TRIED, "kept"]
    table("sum of both speeds (median of rounds)", columns, [cells(row) for row in rows])
    write_results("multiplex", options.quick, facts, {"rounds": rounds, "seconds": seconds, "rows": rows})


def measure(
    pair: tuple[str, str], place: str, start: Start, options_of: list[str], rounds: int, seconds: float
) -> dict[str, Any]:
    with (
        tempfile.TemporaryDirectory(prefix="multiplex-", ignore_cleanup_errors=True) as folder,
        contextlib.ExitStack() as stack,
    ):
        runs = []
        for index, bound in enumerate(pair):
            run = RunDirectory(Path(folder) / f"run-{index}")
            command = [sys.executable, "-m", "manyhands", "train", str(JOB), "--run-dir", str(run.path), "--quiet"]
            process = start([*command, *options_of, "--workers", "2", "--", "--bound", bound])
            stack.callback(process.wait)
            stack.callback(process.kill)
            wait_for(run, lambda status: status.step >= 5)
            runs.append(Training(run, (f"{folder}/slot-0", f"{folder}/slot-1")))
        found: list[Tried] = [asyncio.run(trial(*runs, (None, None), seconds)) for _ in range(rounds)]
    return {
        "pair": " + ".join(pair),
        "place": place,
        "alone": [one.alone for one in found],
        "ways": {way: [one.all[way] for one in found if way in one.all] for way in TRIED},
        "kept": [(one.way, sum(one.speeds)) for one in found],
    }


def cells(row: dict[str, Any]) -> list[str]:
    sums = {way: statistics.median(sum(speeds) for speeds in found) for way, found in row["ways"].items()}
    best = statistics.median(total for _, total in row["kept"])
    kept = "parted: 1.00" if best <= 1.0 else f"{max(sums, key=lambda way: sums[way])}: {best:.2f}"
    return [row["pair"], row["place"], *(f"{sums[way]:.2f}" for way in TRIED), kept]


@contextlib.contextmanager
def here() -> Iterator[tuple[Start, list[str]]]:
    yield lambda command: subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL), []


@contextlib.contextmanager
def lab() -> Iterator[tuple[Start, list[str]]]:
    """Two hosts with one slot each, and the one that runs are started on."""
    names = ["h1", "h2"]
    with (
        Lab(preset(f"star-3:{RATE}")) as hosts,
        agents(names, lambda name, command: hosts.run(name, command, **PIPES)) as (ports, token),
    ):
        named = ",".join(f"{name}:{port}" for name, port in zip(names, ports, strict=True))
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        yield lambda command: hosts.run("h0", command, **quiet), ["--hosts", named, "--token", str(token)]


PLACES = {"here": here, "lab": lab}

if __name__ == "__main__":
    main()
