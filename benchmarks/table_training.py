"""A click model with its tables on servers, beside the same model with a dense all-reduce and beside torch alone.

Rows per second (two for every sample) of examples/recommend.py's model, sides in turn:

  tables, 1 worker              `manyhands train`, the tables in mapped files
  tables, 2 workers, 2 servers  `--sync server,servers=2`: only rows that a micro-batch uses travel
  dense all-reduce, 2 workers   `nn.Embedding` in place of the tables: gradients of whole tables travel
  torch, 1 process              `nn.Embedding(sparse=True)` and sparse Adagrad in a bare loop

Then both tables together at 20 GB, with 2 workers and 2 servers: steps per second, and the largest resident set of any
process. A large table is left to grow: rows that were never used take no place on disk. Rows per second are those of
the second half of the time given.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from common import BENCHMARKS, arguments, console, machine, ratios, summary, table, write_results
from runs import Run, samples_per_second
from torch.utils.data import default_collate

from manyhands.run import read_journal
from manyhands.training.jobfile import load_job

JOB = BENCHMARKS / "jobs" / "clicks.py"
BATCH, RECORD = 2048, 132
"""Samples; bytes of a record of 16 values with Adagrad's state."""
LARGE = 20 * 10**9
PER_SAMPLE = 2
SERVERS = ("--workers", "2", "--sync", "server,servers=2")
SIDES = {
    "tables, 1 worker": ("table", ("--workers", "1")),
    "tables, 2 workers, 2 servers": ("table", SERVERS),
    "dense all-reduce, 2 workers": ("dense", ("--workers", "2")),
}
TORCH = "torch, 1 process"


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, help="default 3; 1 with --quick")
    parser.add_argument("--folder", type=Path, help="where the tables are; default the temporary directory")
    parser.add_argument("--large-seconds", type=float, help="default 120; 10 with --quick")
    options = parser.parse_args()
    facts = machine()
    rounds = options.rounds or (1 if options.quick else 3)
    sizes = [10**4] if options.quick else [10**4, 10**5, 10**6]
    seconds = options.large_seconds or (10.0 if options.quick else 120.0)
    measured = []
    with tempfile.TemporaryDirectory(prefix="clicks-", dir=options.folder) as folder:
        for rows in sizes:
            rates: dict[str, list[float]] = {side: [] for side in (*SIDES, TORCH)}
            for number in range(rounds):
                for side, (kind, flags) in SIDES.items():
                    directory = Path(folder) / f"{rows}-{kind}-{len(flags)}-{number}"
                    rates[side].append(train(directory, kind, flags, rows))
                rates[TORCH].append(in_torch(rows))
            result = {"rows": rows, "table_bytes": 2 * rows * 64}
            result["rows_per_second"] = {side: summary(values) for side, values in rates.items()}
            dense = rates["dense all-reduce, 2 workers"]
            result["over_dense"] = {side: ratios(values, dense) for side, values in rates.items()}
            measured.append(result)
            show(result)
        large = train_large(Path(folder) / "large", seconds)
    console.print(large)
    write_results("table_training", options.quick, facts, {"batch": BATCH, "sizes": measured, "large": large})


def flags_of(kind: str, rows: int, steps: int, users: int = 100_000) -> list[str]:
    own = f"--rows {rows} --batch-size {BATCH} --steps {steps} --users {users} --items {max(10_000, users // 10)}"
    return ["--kind", kind, f"--flags={own}"]


def train(directory: Path, kind: str, options: tuple[str, ...], rows: int) -> float:
    """Rows per second of a short training."""
    steps = 30 if kind == "dense" and rows > 10**5 else 150
    with Run(directory, JOB, flags_of(kind, rows, steps), options) as run:
        run.finish(300.0)
    return PER_SAMPLE * samples_per_second(run.files, BATCH, warm_up=0.4)


def in_torch(rows: int, steps: int = 150) -> float:
    """Rows per second of torch's sparse gradients in this process."""
    torch.set_num_threads(1)
    job = load_job(JOB, flags_of("sparse", rows, steps))
    torch.manual_seed(0)
    model, data = job.model(), job.data()
    optimizer = job.optimizer(model.parameters())
    order = torch.randperm(len(data))[: steps * BATCH].tolist()  # type: ignore[arg-type]
    began = 0.0
    for step in range(steps):
        if step == int(0.4 * steps):
            began = time.perf_counter()
        chosen = order[step * BATCH : (step + 1) * BATCH]
        ids, target = default_collate(data.__getitems__(chosen))  # type: ignore[attr-defined]
        job.loss(model(ids), target).backward()
        optimizer.step()
        optimizer.zero_grad()
    return PER_SAMPLE * (steps - int(0.4 * steps)) * BATCH / (time.perf_counter() - began)


def train_large(directory: Path, seconds: float) -> dict[str, Any]:
    """Both tables together at 20 GB, for so long."""
    rows = LARGE // RECORD // 2
    most: dict[str, int] = {}
    with Run(directory, JOB, flags_of("table", rows, 10**6, users=rows), SERVERS) as run:
        run.wait_for_step(5)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            found = run.status()
            for kind in ("workers", "servers"):
                for member in found.get(kind, []):
                    name = f"{kind[:-1]} {member['rank']}"
                    most[name] = max(most.get(name, 0), resident(member["pid"]))
            time.sleep(0.5)
        files = [f for f in run.files.path.rglob("*.table") if f.is_file()]
        length, disk = sum(f.stat().st_size for f in files), sum(f.stat().st_blocks * 512 for f in files)
        run.stop()
    rate = PER_SAMPLE * samples_per_second(run.files, BATCH, warm_up=0.5)
    losses = [line["loss"] for line in read_journal(run.files.metrics) if line["kind"] == "step"]
    return {
        "length_bytes": length,
        "disk_bytes": disk,
        "peak_resident_bytes": most,
        "steps": len(losses),
        "first_loss": sum(losses[:20]) / 20,
        "last_loss": sum(losses[-20:]) / 20,
        "rows_per_second": rate,
        "seconds": seconds,
    }


def resident(pid: int) -> int:
    """The largest resident set that a process had, in bytes."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except FileNotFoundError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def show(result: dict[str, Any]) -> None:
    rates, over = result["rows_per_second"], result["over_dense"]
    rows = [(side, f"{rates[side]['median'] / 1e3:.0f}", f"{over[side]['median']:.2f}") for side in rates]
    title = f"{result['rows']:.0e} rows a table, {result['table_bytes'] / 1e6:.0f} MB in all"
    table(title, ("", "1000 rows/s", "/ dense"), rows)


if __name__ == "__main__":
    main()
