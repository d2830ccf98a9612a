"""Collectives between ranks of one machine, through shared memory."""

from __future__ import annotations

import math
from typing import Any

from common import summary, table

from collectives.sides import GLOO, MPI, OURS, on_this_machine
from manyhands.bench import alternate
from manyhands.bench.measure import LEAST
from manyhands.cli.collective_bench import format_size
from manyhands.report.chart import duration

SIZES = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20, 128 << 20]
OTHERS = {operation: [64 << 10, 1 << 20, 16 << 20] for operation in ("reduce_scatter", "all_gather", "broadcast")}
ROUNDS = 9


def measure(quick: bool) -> dict[str, Any]:
    """All-reduce by size, then the other operations, with 2 and 4 ranks."""
    rows: list[dict[str, Any]] = []
    for world in (2, 4):
        with on_this_machine(world) as fleets:
            for operation, sizes in {"all_reduce": SIZES, **OTHERS}.items():
                for size in sizes[:: 3 if quick else 1]:
                    timings = alternate(fleets, operation, size, 2 if quick else ROUNDS)
                    rows.append(
                        {
                            "ranks": world,
                            "operation": operation,
                            "bytes": size,
                            "seconds": {side: summary(timing.seconds) for side, timing in timings.items()},
                            "rate": {side: size / timing.median for side, timing in timings.items()},
                            "ratio": {side: timings[OURS].over(timings[side]) for side in timings if side != OURS},
                        }
                    )
                    if operation == "all_reduce":
                        rows[-1]["copy_seconds"] = copying(fleets[OURS], size, 2 if quick else ROUNDS)
        show([row for row in rows if row["ranks"] == world])
    large = [r for r in rows if r["operation"] == "all_reduce" and r["bytes"] >= 1 << 20]
    least = [(min(r["ratio"][GLOO] for r in some), len(some)) for some in (rows, large)]
    return {"rows": rows, "least_ratio_to_gloo": least[0][0], "least_ratio_to_gloo_from_1_MiB": least[1][0]}


def copying(fleet: Any, size: int, rounds: int) -> float:
    """Seconds, at best, in which every rank copies so many bytes, for scale: there is no bound from links here."""
    once = max(fleet.ask("copy", size=size, repeat=1))
    repeat = min(1000, math.ceil(LEAST / once))
    return min(max(fleet.ask("copy", size=size, repeat=repeat)) for _ in range(rounds))


def show(rows: list[dict[str, Any]]) -> None:
    printed = []
    for row in rows:
        cells = [row["operation"], format_size(row["bytes"])]
        cells.append(duration(row["copy_seconds"]) if "copy_seconds" in row else "")
        for side in (OURS, GLOO, MPI):
            seconds = row["seconds"].get(side)
            cells.append(f"{duration(seconds['median'])} ({duration(seconds['min'])})" if seconds else "-")
        cells.append(f"{row['rate'][OURS] / 1e6:,.0f}")
        cells += [f"{row['ratio'][side]:.2f}" if side in row["ratio"] else "-" for side in (GLOO, MPI)]
        printed.append(cells)
    title = f"{rows[0]['ranks']} ranks, shared memory: median (least)"
    table(title, ["", "bytes", "a copy", OURS, GLOO, MPI, "MB/s", "/ gloo", "/ MPI"], printed)
