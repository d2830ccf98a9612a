"""Tables in mapped files: rows read and updated per second, beside torch's embedding in memory, and a table of 20 GB.

A step draws 16384 ids by a power law (the k-th row 1 / k as often as the first, scattered over the table), reads each
of them once, and updates it. Three do the same step in turn, so that drift cancels out:

  file       `TableFile.read` and `update`
  journaled  the same, with a mark before every step and the step before forgotten, as training that can be undone
  torch      `nn.Embedding(sparse=True)`: forward, backward, and step of SGD, Adagrad or SparseAdam

Where weights and state take less than 1.5 GB, every page of the files is touched before, as torch's memory is. Larger
tables are left to grow, without torch: most of the time then goes into the first use of rows, each of which makes a
page on disk.

Then a table of 20 GB in a process of its own: rows per second, the largest resident set, and what the file takes on
disk. `--fill` touches every page of it first, so that all 20 GB are there; that takes as long as the disk takes to
write them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import arguments, console, machine, ratios, summary, table, write_results
from peer_process import finish

from manyhands.tables import RowAdagrad, RowAdam, RowOptimizer, RowSGD, TableFile, TableSpec

DRAWN = 16384
"""Ids per step."""
LARGE = 20 * 10**9
LARGE_DEADLINE = 3600.0
TORCH_BYTES = 1.5e9
OPTIMIZERS: dict[str, RowOptimizer] = {"sgd": RowSGD(lr=0.1), "adagrad": RowAdagrad(lr=0.1), "adam": RowAdam(lr=0.01)}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--out", type=Path, help="write the figures to this file instead")
    parser.add_argument("--folder", type=Path, help="where the tables are; default the temporary directory")
    parser.add_argument("--fill", action="store_true", help="touch every page of the large table first")
    parser.add_argument("--seconds", type=float, help="per size and optimizer; default 0.7")
    parser.add_argument("--large-seconds", type=float, help="for the large table; default 30")
    parser.add_argument("--large-only", action="store_true", help="only the large table")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "Sparse invariant checks")
    seconds = options.seconds or (0.2 if options.quick else 0.7)
    large_seconds = options.large_seconds or (3.0 if options.quick else 30.0)
    if options.worker:
        print(json.dumps(train_large(options.worker, large_seconds, options.fill)))
        return
    facts = machine()
    sizes = [10**5, 10**6] if options.quick else [10**5, 10**6, 10**7, 10**8]
    cases = [] if options.large_only else [(w, r, o) for w in (16, 64) for r in sizes for o in OPTIMIZERS]
    measured = []
    with tempfile.TemporaryDirectory(prefix="tables-", dir=options.folder) as folder:
        for number, case in enumerate(cases):
            measured.append(compare(Path(folder) / str(number), *case, seconds))
        large = run_large(Path(folder) / "large.table", large_seconds, options.fill)
    show(measured, large)
    figures = {"settings": {"drawn": DRAWN, "seconds": seconds}, "sizes": measured, "large": large}
    if options.out:
        options.out.write_text(json.dumps({"machine": facts, **figures}, indent=2) + "\n")
    else:
        write_results("tables", options.quick, facts, figures)


def zipf(rows: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Steps' ids, sorted, each once."""
    random = np.random.default_rng(seed)
    stride = int(rows * 0.618) | 1
    while np.gcd(stride, rows) != 1:
        stride += 2
    while True:
        rank = np.power(float(rows), random.random(DRAWN)).astype(np.int64)
        yield np.unique(rank * stride % rows)


def compare(folder: Path, width: int, rows: int, optimizer: str, seconds: float) -> dict[str, Any]:
    """All ways of a step in turn, for so many seconds of ours."""
    folder.mkdir()
    spec = TableSpec(rows=rows, width=width, optimizer=OPTIMIZERS[optimizer], seed=0)
    files = [TableFile(folder / f"{name}.table", spec) for name in ("file", "journaled")]
    ways: dict[str, Callable[[torch.Tensor, torch.Tensor, int], None]] = {
        "file": lambda ids, grads, step: use(files[0], ids, grads),
        "journaled": lambda ids, grads, step: use_and_mark(files[1], ids, grads, step),
    }
    if 4 * rows * (spec.words - 1) <= TORCH_BYTES:
        ways["torch"] = in_torch(rows, width, optimizer)
        for file in files:
            fill(file)
    rates: dict[str, list[float]] = {name: [] for name in ways}
    end = time.perf_counter() + seconds * len(ways)
    for step, drawn in enumerate(zipf(rows)):
        ids, grads = torch.from_numpy(drawn), torch.randn(len(drawn), width)
        for name, way in ways.items():
            begin = time.perf_counter()
            way(ids, grads, step)
            rates[name].append(len(drawn) / (time.perf_counter() - begin))
        if time.perf_counter() > end and step >= 3:
            break
    disk = files[0].path.stat().st_blocks * 512
    for file in files:
        file.close(sync=False)
        file.path.unlink()
    result: dict[str, Any] = {"width": width, "rows": rows, "optimizer": optimizer, "disk_bytes": disk}
    # The second half: tables are then as full as a power law lets them be in this time.
    steady = {name: values[len(values) // 2 :] for name, values in rates.items()}
    result["rows_per_second"] = {name: summary(values) for name, values in steady.items()}
    if "torch" in ways:
        result["over_torch"] = {n: ratios(steady[n], steady["torch"]) for n in ("file", "journaled")}
    console.print(f"width {width}, {rows:.0e} rows, {optimizer}: {line(result)}")
    return result


def fill(file: TableFile) -> None:
    """Touch every page."""
    rows = np.arange(0, file.spec.rows, max(1, 4096 // (4 * file.spec.words)), dtype=np.int64)
    for part in np.array_split(rows, 1 + len(rows) // DRAWN):
        file.update(torch.from_numpy(part), torch.ones(len(part), file.spec.width))


def use(file: TableFile, ids: torch.Tensor, grads: torch.Tensor) -> None:
    file.read(ids)
    file.update(ids, grads)


def use_and_mark(file: TableFile, ids: torch.Tensor, grads: torch.Tensor, step: int) -> None:
    file.mark(step)
    file.forget(step)
    use(file, ids, grads)


def in_torch(rows: int, width: int, optimizer: str) -> Callable[[torch.Tensor, torch.Tensor, int], None]:
    weights = torch.nn.Embedding(rows, width, sparse=True)
    make: dict[str, Callable[[], torch.optim.Optimizer]] = {
        "sgd": lambda: torch.optim.SGD(weights.parameters(), lr=0.1),
        "adagrad": lambda: torch.optim.Adagrad(weights.parameters(), lr=0.1),
        "adam": lambda: torch.optim.SparseAdam(list(weights.parameters()), lr=0.01),
    }
    rule = make[optimizer]()

    def step(ids: torch.Tensor, grads: torch.Tensor, number: int) -> None:
        weights(ids).backward(grads)
        rule.step()
        rule.zero_grad(set_to_none=True)

    return step


def run_large(path: Path, seconds: float, full: bool) -> dict[str, Any]:
    """The large table in a process of its own, whose memory is then its own."""
    command = [sys.executable, __file__, "--worker", str(path), "--large-seconds", str(seconds)]
    try:
        return json.loads(finish([*command, *(["--fill"] if full else [])], seconds + LARGE_DEADLINE))
    except RuntimeError as error:
        raise SystemExit(f"the large table failed: {error}") from None


def train_large(path: Path, seconds: float, full: bool) -> dict[str, Any]:
    spec = TableSpec(rows=LARGE // 132, width=16, optimizer=RowAdagrad(lr=0.1), seed=0)
    before = status("VmHWM")
    file = TableFile(path, spec)
    begin = time.perf_counter()
    if full:
        fill(file)
    filled = time.perf_counter() - begin
    rates, used, end = [], 0, time.perf_counter() + seconds
    for step, drawn in enumerate(zipf(spec.rows)):
        ids, grads = torch.from_numpy(drawn), torch.randn(len(drawn), spec.width)
        begin = time.perf_counter()
        use_and_mark(file, ids, grads, step)
        rates.append(len(drawn) / (time.perf_counter() - begin))
        used += len(drawn)
        if time.perf_counter() > end:
            break
    stat = path.stat()
    return {
        "length_bytes": stat.st_size,
        "disk_bytes": stat.st_blocks * 512,
        "peak_resident_bytes": status("VmHWM"),
        "peak_resident_bytes_before": before,
        "fill_seconds": filled if full else None,
        "seconds": seconds,
        "rows_used": used,
        "rows_per_second": summary(rates),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }


def status(name: str) -> int:
    """Bytes, of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1]) * 1024


def line(result: dict[str, Any]) -> str:
    rates = [f"{name} {figures['median'] / 1e6:.2f} M rows/s" for name, figures in result["rows_per_second"].items()]
    return ", ".join(rates)


def show(measured: list[dict[str, Any]], large: dict[str, Any]) -> None:
    rows = []
    for result in measured:
        rates = result["rows_per_second"]
        over = result.get("over_torch", {})
        rows.append(
            [
                f"{result['width']} x {result['rows']:.0e} {result['optimizer']}",
                *(f"{rates[n]['median'] / 1e6:.2f}" if n in rates else "-" for n in ("file", "journaled", "torch")),
                *(f"{over[n]['median']:.2f}" if n in over else "-" for n in ("file", "journaled")),
                f"{result['disk_bytes'] / 1e6:.0f} MB",
            ]
        )
    columns = ["table", "file M rows/s", "journaled", "torch", "file / torch", "journaled / torch", "on disk"]
    table("Rows read and updated, a core", columns, rows)
    console.print(
        f"a table of {large['length_bytes'] / 1e9:.1f} GB: {large['rows_per_second']['median'] / 1e6:.2f} M rows/s "
        f"journaled, {large['rows_used'] / 1e6:.1f} M rows in {large['seconds']:.0f} s; "
        f"resident {large['peak_resident_bytes'] / 1e9:.2f} GB at most, of which "
        f"{large['peak_resident_bytes_before'] / 1e9:.2f} GB before it was opened; "
        f"{large['disk_bytes'] / 1e9:.2f} GB on disk"
    )


if __name__ == "__main__":
    main()
