"""Moving a running job: the pause that it sees, beside what the bytes of its state take.

A job with so many MB of state (weights and AdamW's moments) trains with one worker on one host and is told to go to
others (`manyhands resize --hosts`), again and again. The pause is the longest time between two committed steps around
the move, less what a step takes. Places:

loopback   two agents on this machine: the state goes through memory that both share
lab        hosts of their own, 1 Gbit/s each: from h1 to h2, and from h1 to h2 and h3 at once

The bound is the state's bytes over what the way carries: the link's bandwidth; on the loopback, what one thread copies.
Expectation: at most 1.3 times the bound and 0.3 s; at most 2 s for 1 GB on the loopback.
"""

from __future__ import annotations

import contextlib
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from common import BENCHMARKS, arguments, console, machine, summary, table, write_results
from runs import Tail

from manyhands.cluster import preset
from manyhands.errors import UserError
from manyhands.lab import Lab, obstacle
from manyhands.run import Command, Done, Resize, RunDirectory, Status, Stop

JOB = BENCHMARKS / "jobs" / "state.py"
SIZES = "10,100,1000"
MOVES = 6
RATE = 125_000_000
"""Bytes/s of a lab link."""
PIPES: dict[str, Any] = {
    "stdout": subprocess.PIPE,
    "stderr": subprocess.STDOUT,
    "text": True,
    "env": {**os.environ, "PYTHONUNBUFFERED": "1"},
}
_DEADLINE = 240.0


class Place(NamedTuple):
    """Hosts that a run may use, as it calls them, and how a command is started where the run is."""

    names: list[str]
    token: Path
    start: Callable[[list[str]], Any]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--places", default="loopback,lab")
    parser.add_argument("--sizes", default=SIZES, help="MB")
    options = parser.parse_args()
    sizes = [1, 10] if options.quick else [int(size) for size in options.sizes.split(",")]
    moves = 2 if options.quick else MOVES
    facts, figures = machine(), dict[str, Any]()
    for name in options.places.split(","):
        if name == "lab" and (reason := obstacle()):
            console.print(f"lab is left out: {reason}")
            continue
        with PLACES[name]() as place:
            first, *others = place.names
            for to in dict.fromkeys((others[0], ",".join(others))):
                bound = RATE if name == "lab" else copy_rate()
                rows = [measure(place, size, first, to, moves) | {"bound": size * 1e6 / bound} for size in sizes]
                title = f"{name}, to {to.count(',') + 1} host(s)"
                figures[title] = rows
                show(title, rows)
    write_results("migration", options.quick, facts, {"moves": moves, "places": figures})


def measure(place: Place, megabytes: int, first: str, to: str, moves: int) -> dict[str, Any]:
    """Moves to and fro; a pause (s) for each, and what a step takes."""
    with tempfile.TemporaryDirectory(prefix="migration-") as folder:
        run = RunDirectory(Path(folder) / "run")
        command = [sys.executable, "-m", "manyhands", "train", str(JOB), "--run-dir", str(run.path), "--quiet"]
        command += ["--token", str(place.token), "--hosts", first, "--checkpoint-seconds", "3600"]
        process = place.start([*command, "--", "--megabytes", str(megabytes), "--tokens", "16"])
        metrics, steps, pauses, usual = Tail(run.metrics), list[dict[str, Any]](), list[float](), list[float]()
        try:
            wait_for(run, lambda status: status.step >= 5)
            for index in range(moves):
                hosts = to if index % 2 == 0 else first
                begun = run.show().step
                names = hosts.split(",")
                ask(run, Resize(workers=len(names), hosts=hosts))
                there = wait_for(run, lambda status, names=names: is_on(status, names))
                wait_for(run, lambda status, step=there.step: status.step >= step + 5)
                steps += [line for line in metrics.new() if line["kind"] == "step"]
                gaps = [b - a for a, b in pairwise(line["time"] for line in steps if line["step"] >= begun)]
                usual.append(statistics.median(gaps))
                pauses.append(max(gaps) - usual[-1])
            ask(run, Stop())
            process.wait(_DEADLINE)
        finally:
            process.kill()
    return {"megabytes": megabytes, "pauses": pauses, "step": statistics.median(usual)}


def is_on(status: Status, names: list[str]) -> bool:
    return status.settled and sorted(worker.host for worker in status.workers) == sorted(names)


def ask(run: RunDirectory, command: Command) -> Done:
    return run.ask(command, Done, _DEADLINE)


def wait_for(run: RunDirectory, reached: Callable[[Status], bool]) -> Status:
    """Until it stands like that; how it stands.

    Raises:
        RuntimeError: it does not in time.
    """
    until = time.monotonic() + _DEADLINE
    while time.monotonic() < until:
        with contextlib.suppress(UserError):
            status = run.show()
            if reached(status):
                return status
        time.sleep(0.05)
    raise RuntimeError(f"{run.path} did not come so far; {run.log.read_text()[-2000:]}")


def copy_rate() -> float:
    """Bytes/s that one thread copies."""
    source, target = torch.ones(64 << 20, dtype=torch.uint8), torch.zeros(64 << 20, dtype=torch.uint8)
    best = 0.0
    for _ in range(5):
        began = time.perf_counter()
        target.copy_(source)
        best = max(best, len(source) / (time.perf_counter() - began))
    return best


def show(title: str, rows: Sequence[dict[str, Any]]) -> None:
    cells = []
    for row in rows:
        found, most = summary(row["pauses"]), 1.3 * row["bound"] + 0.3
        holds = "yes" if found["median"] <= most else "no"
        times = [f"{seconds:.2f} s" for seconds in (found["median"], found["max"], row["bound"], most)]
        cells.append([f"{row['megabytes']} MB", *times, holds])
    table(title, ["state", "pause (median)", "worst", "bound", "1.3 x bound + 0.3 s", "holds"], cells)


@contextlib.contextmanager
def loopback() -> Iterator[Place]:
    """Two agents on this machine."""
    with agents(["", ""], lambda _, command: subprocess.Popen(command, **PIPES)) as (ports, token):
        names = [f"127.0.0.1:{port}" for port in ports]
        yield Place(names, token, lambda command: subprocess.Popen(command, **PIPES))


@contextlib.contextmanager
def lab() -> Iterator[Place]:
    """Three hosts with agents, behind a switch with the one that runs are started on."""
    with Lab(preset(f"star-4:{RATE}B")) as hosts:
        names = ["h1", "h2", "h3"]
        with agents(names, lambda name, command: hosts.run(name, command, **PIPES)) as (ports, token):
            named = [f"{name}:{port}" for name, port in zip(names, ports, strict=True)]
            yield Place(named, token, lambda command: hosts.run("h0", command, **PIPES))


PLACES = {"loopback": loopback, "lab": lab}


@contextlib.contextmanager
def agents(names: list[str], start: Callable[[str, list[str]], Any]) -> Iterator[tuple[list[str], Path]]:
    """Agents that know one token: their ports."""
    with tempfile.TemporaryDirectory(prefix="migration-hosts-") as folder, contextlib.ExitStack() as stack:
        token = Path(folder) / "token"
        token.write_text("the token of this benchmark\n")
        ports = []
        for name in names:
            process = start(name, [sys.executable, "-m", "manyhands", "agent", "--port", "0", "--token", str(token)])
            stack.callback(end, process)
            ports.append(port_of(process))
        yield ports, token


def port_of(process: Any) -> str:
    for line in process.stdout:
        if found := re.search(r"listening on port (\d+)", line):
            threading.Thread(target=process.stdout.read, daemon=True).start()
            return found[1]
    raise RuntimeError("an agent ended at once")


def end(process: Any) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:  # whatever it started dies with it
        process.kill()
        process.wait()


if __name__ == "__main__":
    main()
