"""What keeping state costs: snapshots in shared memory and checkpoints on disk, as shares of the training time.

A job that computes little for the state it has (`benchmarks/jobs/state.py`), two workers on the CPU, 1 MB to
1 GB of weights and AdamW moments. Two runs follow each other, again and again: one with the default care, one
that keeps nothing.

  snapshot    share of the time that the worker which takes the snapshots spends in them, by its own phases
  all         1 - steps/s with state kept / steps/s without, within a round: also the writing of checkpoints,
              which shares the cores and the memory with the training

Bounds: snapshots 2 % (`--snapshot-share`), everything 3.5 %. With 1 GB, 2 % pays for about one snapshot a minute, and
the first checkpoint, after 30 s, falls into the window; the next would come so late that writing takes 1 % of the
time. So the figure for 1 GB is that of a run's first minutes, the dearest.
"""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common import BENCHMARKS, arguments, console, machine, ratios, summary, table, write_results
from runs import Run

from manyhands.run import RunDirectory, read_journal, read_json

JOB = BENCHMARKS / "jobs" / "state.py"
WARM_UP = 5.0
"""Seconds after the first committed step that are not timed: the first snapshots touch new pages."""
START_DEADLINE = 180.0
WITHOUT = ["--snapshot-share", "1e-9", "--checkpoint-seconds", "1e9"]


@dataclass(frozen=True)
class Case:
    megabytes: float
    """State of one worker: weights and optimizer."""
    tokens: int
    """Per sample: how much is computed."""
    seconds: float
    """Of each run, after the warm-up."""
    pairs: int
    """Rounds."""


CASES = (Case(1, 512, 20, 5), Case(100, 16, 40, 4), Case(1000, 1, 120, 2))
QUICK = (Case(1, 512, 4, 1), Case(60, 16, 8, 1))


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--pairs", type=int, help="rounds per size; default 5, 4, 2")
    options = parser.parse_args()
    facts = machine()
    measured = []
    for case in QUICK if options.quick else CASES:
        if _free_bytes() < 12e6 * case.megabytes + 2e9:
            console.print(
                f"{case.megabytes:.0f} MB left out: it needs about {12 * case.megabytes / 1e3 + 2:.0f} GB free"
            )
            continue
        measured.append(compare(case, options.pairs or case.pairs))
    show(measured)
    settings = {"workers": 2, "without": WITHOUT, "bound": {"snapshot": 0.02, "all": 0.035}}
    write_results("state_cost", options.quick, facts, {"settings": settings, "sizes": measured})


def compare(case: Case, pairs: int) -> dict[str, Any]:
    """Runs with and without state in turn."""
    kept, bare = [], []
    for number in range(pairs):
        kept.append(train(case, []))
        bare.append(train(case, WITHOUT))
        console.print(
            f"{case.megabytes:.0f} MB {number + 1}/{pairs}: {kept[-1]['steps_per_second']:.3f} steps/s with state, "
            f"{bare[-1]['steps_per_second']:.3f} without; snapshots {kept[-1]['snapshot_share']:.2%}"
        )
    ratio = ratios([k["steps_per_second"] for k in kept], [b["steps_per_second"] for b in bare])
    return {
        **asdict(case),
        "state_bytes": kept[0]["state_bytes"],
        "snapshot_share": summary([k["snapshot_share"] for k in kept]),
        "throughput_ratio": ratio,
        "with_state": kept,
        "without_state": bare,
    }


def train(case: Case, care: list[str]) -> dict[str, Any]:
    """One run of so many seconds, stopped from outside."""
    with tempfile.TemporaryDirectory(prefix="state-cost-") as folder:
        directory = Path(folder) / "run"
        flags = ["--megabytes", str(case.megabytes), "--tokens", str(case.tokens)]
        with Run(directory, JOB, flags, ["--workers", "2", *care]) as run:
            run.wait_for_step(1, START_DEADLINE)
            time.sleep(WARM_UP)
            begin = time.time()
            time.sleep(case.seconds)
            end = time.time()
            run.stop()
        return figures_of(run.files, begin, end)


def figures_of(files: RunDirectory, begin: float, end: float) -> dict[str, Any]:
    """Steps/s, the keeper's time in snapshots, and the checkpoints written, between two moments (Unix time)."""
    lines = list(read_journal(files.metrics))
    steps = [line for line in lines if line["kind"] == "step" and begin <= line["time"] <= end]
    first, last = steps[0], steps[-1]
    sums: dict[str, float] = {}
    for line in lines:
        if line["kind"] == "phases" and line["rank"] == 0 and first["step"] < line["first"] <= last["step"]:
            for phase, seconds in line["seconds"].items():
                sums[phase] = sums.get(phase, 0.0) + seconds
    written = [read_json(path)["written"] for path in files.checkpoints.glob("*/checkpoint.json")]
    return {
        "steps_per_second": (last["step"] - first["step"]) / (last["time"] - first["time"]),
        "steps": last["step"] - first["step"],
        "snapshot_share": sums.get("snapshot", 0.0) / sum(sums.values()),
        "phase_seconds": sums,
        "checkpoints_written": sum(begin <= moment <= end for moment in written),
        "state_bytes": _state_bytes(files),
    }


def _state_bytes(files: RunDirectory) -> int:
    """Size of the newest checkpoint, which is the state and a header."""
    return max(read_json(path)["bytes"] for path in files.checkpoints.glob("*/checkpoint.json"))


def _free_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


def show(measured: list[dict[str, Any]]) -> None:
    rows = []
    for figures in measured:
        ratio, share = figures["throughput_ratio"], figures["snapshot_share"]
        step = figures["with_state"][0]
        rows.append(
            [
                f"{figures['state_bytes'] / 1e6:.0f} MB",
                f"{1 / step['steps_per_second']:.3f}",
                f"{share['median']:.2%}",
                f"{1 - ratio['median']:.2%}",
                f"{1 - ratio['max']:.2%} to {1 - ratio['min']:.2%}",
                str(sum(run["checkpoints_written"] for run in figures["with_state"])),
            ]
        )
    columns = ["state", "step s", "snapshot", "all", "from, to", "checkpoints in the window"]
    table("What keeping state costs, of the training time", columns, rows)


if __name__ == "__main__":
    main()
