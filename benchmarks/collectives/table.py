"""The measured figures as Markdown: what docs/collectives.md says between its markers.

python benchmarks/collectives/table.py    # puts the tables and targets of benchmarks/results/ into the page
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(BENCHMARKS))

from collectives.chart import chart  # noqa: E402
from collectives.sides import GLOO, MPI, OURS, PROBED  # noqa: E402
from manyhands.cli.collective_bench import format_size  # noqa: E402
from manyhands.report.chart import duration  # noqa: E402

PAGE = BENCHMARKS.parent / "docs" / "collectives.md"
START, END = "<!-- {part}: written by benchmarks/collectives/table.py -->", "<!-- end of {part} -->"
LARGE = 16 << 20

Figures = dict[str, Any]


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def about(figures: Figures) -> str:
    machine = figures["machine"]
    return (
        f"{machine['date'][:10]}, {machine['cores']} shared cores ({machine['processor']}), no GPU, torch "
        f"{machine['torch']}, commit {machine['commit']}: `{figures['command']}`."
    )


def times(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def links(figures: Figures) -> str:
    rows = []
    for row in figures["rows"]:
        cells = [row["topology"], row["operation"], format_size(row["bytes"]), f"{row['bound_seconds']:.3f} s"]
        for side in (OURS, PROBED, GLOO, MPI):
            known = side in row["seconds"]
            cells.append(f"{row['seconds'][side]['median']:.3f} s ({row['share'][side]:.2f})" if known else "-")
        rows.append([*cells, *(times(row["ratio"].get(side)) for side in (GLOO, MPI))])
    head = ["network", "operation", "bytes", "bound", f"{OURS} (share)", "probed (share)", "gloo (share)"]
    return table([*head, "Open MPI (share)", "gloo / ours", "MPI / ours"], rows)


def memory(figures: Figures) -> str:
    rows = []
    for row in figures["rows"]:
        cells = [str(row["ranks"]), row["operation"], format_size(row["bytes"])]
        cells.append(duration(row["copy_seconds"]) if "copy_seconds" in row else "")
        seconds = row["seconds"]
        cells += [duration(seconds[side]["median"]) if side in seconds else "-" for side in (OURS, GLOO, MPI)]
        rows.append([*cells, *(times(row["ratio"].get(side)) for side in (GLOO, MPI))])
    head = ["ranks", "operation", "bytes", "a copy", OURS, GLOO, MPI, "gloo / ours", "MPI / ours"]
    return table(head, rows)


def traffic(figures: Figures) -> str:
    ordered = sorted(figures["rows"], key=lambda row: row["operation"])
    rows = [[r["operation"], r["side"], *(f"{r[k]:.3f}" for k in ("least", "sent", "received"))] for r in ordered]
    return table(["operation", "over", "least", "sent / data", "received / data"], rows)


def training(figures: Figures) -> str:
    rows = []
    for row in figures["rows"]:
        seconds, ratio = row["seconds"], row["ratio"]
        cells = [f"{seconds[side]['median']:.3f} s ({seconds[side]['min']:.3f})" for side in (OURS, GLOO)]
        rows.append([row["place"], *cells, f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})"])
    return table(["ranks", OURS, GLOO, "gloo / ours"], rows)


def targets(found: dict[str, Figures]) -> str:
    """What was asked for, what is, and whether that holds."""
    promised = found["links"]["targets"]
    memory_rows = found["memory"]["rows"]
    scatter = next(
        row for row in found["traffic"]["rows"] if (row["operation"], row["side"]) == ("reduce_scatter", OURS)
    )
    low = [item for item in found["links"]["rows"] if is_large(item) and item["share"][PROBED] < 0.85]
    named = ", ".join(f"{row['topology']} {format_size(row['bytes'])}: {row['share'][PROBED]:.2f}" for row in low)
    checks = [
        ("share of the bound from 16 MiB on, cluster given", 0.85, promised[f"least share, {OURS}"], True, ""),
        ("the same, links probed", 0.85, promised[f"least share, {PROBED}"], True, named),
        ("mesh-4, gloo / ours", 2.5, least(promised, "mesh-4 / gloo"), True, ""),
        ("two equal rails, times one", 1.8, least(promised, "two rails / one"), True, ""),
        ("one slow host, gloo / ours", 1.5, least(promised, "one slow host / gloo"), True, ""),
        ("shared memory from 1 MiB on, all operations, gloo / ours", 3, over_gloo(memory_rows, 1 << 20), True, ""),
        ("shared memory at any size, all operations, gloo / ours", 1, over_gloo(memory_rows, 0), True, ""),
        ("reduce-scatter, bytes each way / data", 0.75, max(scatter["sent"], scatter["received"]), False, ""),
        ("FSDP2 step, bytes less than gloo", 0.25, found["traffic"]["fsdp_bytes_less_than_gloo"], True, ""),
    ]
    rows = [
        [name, f"{'at least' if more else 'at most'} {wanted:g}", f"{value:.3f}", verdict(wanted, value, more, note)]
        for name, wanted, value, more, note in checks
    ]
    return table(["target", "wanted", "worst measured", "holds"], rows)


def is_large(row: Figures) -> bool:
    return row["operation"] == "all_reduce" and row["bytes"] >= LARGE


def least(promised: dict[str, float], prefix: str) -> float:
    return min(value for name, value in promised.items() if name.startswith(prefix))


def over_gloo(rows: list[Figures], size: int) -> float:
    return min(row["ratio"][GLOO] for row in rows if row["bytes"] >= size)


def verdict(wanted: float, value: float, more: bool, note: str) -> str:
    value = round(value, 2)  # headers are counted among the bytes: 0.4 %
    holds = value >= wanted if more else value <= wanted
    return "yes" if holds else f"no ({note})" if note else "no"


PARTS = {"links": links, "memory": memory, "traffic": traffic, "training": training}


def results(part: str) -> Figures:
    return json.loads((BENCHMARKS / "results" / f"collectives_{part}.json").read_text())


def sections() -> dict[str, str]:
    """What belongs between each pair of markers."""
    found = {part: results(part) for part in PARTS}
    written = {part: f"{about(found[part])}\n\n{write(found[part])}" for part, write in PARTS.items()}
    return {"targets": targets(found), **written}


def fill(page: str, written: dict[str, str]) -> str:
    for part, text in written.items():
        start, end = START.format(part=part), END.format(part=part)
        before, found, rest = page.partition(start)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise SystemExit(f"{PAGE.name} lacks the markers of {part}: {start} ... {end}")
        page = f"{before}{start}\n{text}\n{end}{after}"
    return page


if __name__ == "__main__":
    PAGE.write_text(fill(PAGE.read_text(), sections()))
    (PAGE.parent / "collectives.svg").write_text(chart(results("links")["rows"]))
