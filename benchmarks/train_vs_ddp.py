"""What reproducibility costs: samples/s of manyhands as a ratio to DistributedDataParallel, two workers on the CPU.

The same job on both sides (`benchmarks/peers/ddp.py` is the other loop): model, data, optimizer, clipping,
scheduler; one thread per worker; evaluation off. Three runs follow each other, again and again, and ratios are
taken within a round, so that the machine's moods cancel out:

  manyhands       reproducible=True, with everything it does by default: snapshots, checkpoints, journals
  DDP             the same micro-batches, accumulated under no_sync; gloo
  DDP, one pass   every worker takes its share of the batch in one pass: what cutting the batch costs

Steady state: the first fifth of the steps is left out. Bound: manyhands / DDP at least 0.97. A run of DDP that has
not ended in five minutes is killed, is said to be late, and is in no ratio.

The sweep then shows manyhands alone with other `micro_batches`: more of them suit more workers, and cost kernels
that are less efficient.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common import BENCHMARKS, EXAMPLE_JOB, arguments, console, machine, ratios, table, write_results
from peer_process import LateError, finish
from runs import Run, samples_per_second, torchrun

from manyhands.training.jobfile import load_job

DEADLINE = 300.0
WORKERS = 2
SWEEP = (2, 4, 8, 16, 32)
SIDES = ("manyhands", "DDP", "DDP, one pass")


@dataclass(frozen=True)
class Case:
    """An example, with its defaults, for so many steps."""

    example: str
    steps: int
    quick_steps: int


CASES = (Case("gpt", 90, 20), Case("digits", 1100, 150))
"""About 15 s a run on two cores."""


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--pairs", type=int, help="rounds per example; default 7")
    parser.add_argument("--sweeps", type=int, help="rounds of the sweep over micro_batches; default 2")
    options = parser.parse_args()
    pairs = options.pairs or (2 if options.quick else 7)
    sweeps = options.sweeps or (1 if options.quick else 2)
    facts = machine()
    figures: dict[str, Any] = {"settings": {"workers": WORKERS, "cases": [asdict(case) for case in CASES]}}
    with tempfile.TemporaryDirectory(prefix="train-vs-ddp-") as folder:
        for case in CASES:
            steps = case.quick_steps if options.quick else case.steps
            figures[case.example] = compare(Path(folder), case.example, steps, pairs)
        for case in CASES:
            steps = case.quick_steps if options.quick else case.steps
            swept = SWEEP[::2] if options.quick else SWEEP
            figures[case.example]["micro_batches"] = sweep(Path(folder), case.example, steps, swept, sweeps)
    show(figures)
    write_results("train_vs_ddp", options.quick, facts, figures)


def compare(folder: Path, example: str, steps: int, pairs: int) -> dict[str, Any]:
    """The three sides in turn; their rates, and the ratios within each round."""
    rates: dict[str, list[float | None]] = {side: [] for side in SIDES}
    for number in range(pairs):
        rates["manyhands"].append(ours(folder / f"{example}-{number}", example, f"--steps {steps}"))
        rates["DDP"].append(ddp(example, steps, []))
        rates["DDP, one pass"].append(ddp(example, steps, ["--micro-batches", str(WORKERS)]))
        newest = ", ".join(f"{side} {_rate(values[-1])}" for side, values in rates.items())
        console.print(f"{example} {number + 1}/{pairs}, samples/s: {newest}")
    return {
        "samples_per_second": rates,
        "late": {side: values.count(None) for side, values in rates.items()},
        "ratio_to_ddp": _ratios(rates, "manyhands", "DDP"),
        "ratio_to_ddp_one_pass": _ratios(rates, "manyhands", "DDP, one pass"),
        "ddp_ratio_to_one_pass": _ratios(rates, "DDP", "DDP, one pass"),
    }


def _rate(rate: float | None) -> str:
    return f"late: not within {DEADLINE:.0f} s" if rate is None else f"{rate:.0f}"


def _ratios(rates: dict[str, list[float | None]], one: str, other: str) -> dict[str, float] | None:
    """Of the rounds in which both ended; None if there are none."""
    pairs = [(a, b) for a, b in zip(rates[one], rates[other], strict=True) if a is not None and b is not None]
    return ratios([a for a, _ in pairs], [b for _, b in pairs]) if pairs else None


def sweep(folder: Path, example: str, steps: int, counts: tuple[int, ...], rounds: int) -> dict[int, list[float]]:
    """Samples/s of manyhands for each number of micro-batches."""
    rates: dict[int, list[float]] = {count: [] for count in counts}
    for number in range(rounds):
        for count in counts:
            flags = f"--steps {steps} --micro-batches {count}"
            rates[count].append(ours(folder / f"{example}-sweep-{number}-{count}", example, flags))
            console.print(f"{example}, micro_batches={count}: {rates[count][-1]:.0f} samples/s")
    return rates


def ours(directory: Path, example: str, flags: str) -> float:
    """Train with manyhands; samples/s."""
    job_flags = ["--example", example, f"--flags={flags}"]
    with Run(directory, EXAMPLE_JOB, job_flags, ["--workers", str(WORKERS), "--threads", "1"]) as run:
        run.finish(DEADLINE)
    return samples_per_second(run.files, load_job(EXAMPLE_JOB, job_flags).batch_size)


def ddp(example: str, steps: int, flags: list[str]) -> float | None:
    """Train with DDP; samples/s. None if it hung."""
    given = ["--example", example, "--steps", str(steps), f"--flags=--steps {steps}", *flags]
    try:
        said = finish(torchrun(BENCHMARKS / "peers" / "ddp_train.py", given), DEADLINE, {"OMP_NUM_THREADS": "1"})
    except LateError:
        return None
    return json.loads(said.splitlines()[-1])["samples_per_second"]


def show(figures: dict[str, Any]) -> None:
    rows = []
    for case in CASES:
        measured = figures[case.example]
        for name, key in (
            ("manyhands / DDP", "ratio_to_ddp"),
            ("manyhands / DDP, one pass", "ratio_to_ddp_one_pass"),
            ("DDP / DDP, one pass", "ddp_ratio_to_one_pass"),
        ):
            values, sides = measured[key], name.split(" / ")
            late = {side: measured["late"][side] for side in sides if measured["late"][side]}
            said = [f"{count} x {side} not within {DEADLINE:.0f} s" for side, count in late.items()]
            cells = [f"{values[k]:.3f}" for k in ("median", "min", "max")] if values else ["-"] * 3
            rows.append([f"{case.example}: {name}", *cells, str(values["count"] if values else 0), "; ".join(said)])
    table("Throughput as ratios, 2 workers", ["", "median", "min", "max", "pairs", "late"], rows)
    rows = []
    for case in CASES:
        swept = {count: statistics.median(v) for count, v in figures[case.example]["micro_batches"].items()}
        best = max(swept.values())
        rows += [[f"{case.example}: {n}", f"{rate:.0f}", f"{rate / best:.2f}"] for n, rate in swept.items()]
    table("manyhands by micro_batches", ["", "samples/s", "of the best"], rows)


if __name__ == "__main__":
    main()
