"""Writes the figures of benchmarks/results/pipeline_*.json into docs/pipelines-measured.md, between its markers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "pipelines-measured.md"
RESULTS = ROOT / "benchmarks" / "results"
Figures = dict[str, Any]


def main() -> None:
    text = PAGE.read_text()
    found = {part: json.loads((RESULTS / f"pipeline_{part}.json").read_text()) for part in BLOCKS}
    for part, write in {"targets": targets, "machine": machines, **BLOCKS}.items():
        block = write(found if part in ("targets", "machine") else found[part])
        marker = re.compile(rf"(<!-- {part}:[^\n]*-->\n).*?(<!-- end -->)", re.DOTALL)
        text, count = marker.subn(lambda match, block=block: f"{match[1]}{block}\n{match[2]}", text)
        assert count == 1, f"{PAGE} has {count} markers {part}"
    PAGE.write_text(text)


def targets(found: dict[str, Figures]) -> str:
    clock, compute, memory, peers = (found[part] for part in ("clock", "compute", "memory", "peers"))
    share, worst = compute["share_of_theory"]["1f1b"], peers["worst_ratio"]
    rows = [
        (
            "mean error of predicted step times",
            "at most 5 %",
            f"{clock['mean_error']:.1%}",
            clock["mean_error"] <= 0.05,
        ),
        ("worst error", "at most 15 %", f"{clock['worst_error']:.1%}", clock["worst_error"] <= 0.15),
        ("two stages on two cores, 1f1b: share of 2m/(m+1)", "at least 0.9", f"{share:.2f}", compute["target_met"]),
        ("live activations: measured and counted", "equal", f"{len(memory['rows'])} cases", memory["target_met"]),
        ("a step, ours / torch's own schedule over gloo", "at most 1.03", f"{worst:.3f}", peers["target_met"]),
    ]
    return _table(("target", "wanted", "measured", "holds"), [(*row[:3], "yes" if row[3] else "no") for row in rows])


def machines(found: dict[str, Figures]) -> str:
    rows = []
    for part, figures in found.items():
        facts = figures["machine"]
        load = f"{facts['load_before']:.1f} to {figures['load_after']:.1f}"
        rows.append((part, facts["date"][:16], facts["commit"], load))
    first = found["clock"]["machine"]
    about = f"{first['processor']}, {first['cores']} cores, {first['memory_gb']} GB, {first['system']}"
    return f"{about}, Python {first['python']}, torch {first['torch']}.\n\n" + _table(
        ("part", "begun (UTC)", "commit", "load"), rows
    )


def clock(figures: Figures) -> str:
    constants = figures["constants"]
    lines = [
        f"Constants of this run: {constants['overhead'] * 1e3:.2f} ms for an action, "
        f"{constants['latency'] * 1e6:.0f} us for a transfer, {constants['oversleep'] * 1e6:.0f} us for waking up. "
        "Mean error by schedule: "
        + ", ".join(f"{name} {error:.1%}" for name, error in figures["mean_error_by_schedule"].items())
        + f". Taking the schedule that was predicted to be the quickest costs at most {figures['worst_regret']:.1%}.",
        "",
    ]
    rows = [
        (
            f"{row['ranks']}, {row['micro_batches']}, {row['skew']}",
            row["schedule"],
            f"{row['predicted'] * 1e3:.0f}",
            f"{row['measured'] * 1e3:.0f}",
            f"{row['error']:+.1%}",
            f"{row['bubble_predicted']:.3f}",
            f"{row['bubble']:.3f}",
            f"{row['bubble_theory']:.3f}" if row["skew"] == "even" else "",
            f"{row['over_vanilla']:.2f}",
        )
        for row in figures["rows"]
    ]
    names = ("p, m, stages", "schedule", "predicted ms", "measured ms", "error", "bubble predicted", "measured")
    return "\n".join(lines) + "\n" + _table((*names, "theory", "speed / vanilla"), rows)


def compute(figures: Figures) -> str:
    rows = [
        (
            row["schedule"],
            f"{row['seconds']['median'] * 1e3:.0f}",
            _spread(row["over_vanilla"]),
            f"{row['over_vanilla']['median'] / figures['theory']:.2f}",
        )
        for row in figures["rows"]
    ]
    about = f"\n\nTwo processes together do {figures['two_cores']:.2f} times what one does alone."
    theory = f"share of 2m/(m+1) = {figures['theory']:.2f}"
    return _table(("schedule", "step ms", "speed / vanilla", theory), rows) + about


def cuts(figures: Figures) -> str:
    rows = [
        (
            row["name"],
            *(f"{row['seconds'][side]['median'] * 1e3:.0f}" for side in row["cuts"]),
            f"{row['equal_over_balanced']['median'] - 1:+.0%}",
            *(", ".join(names) for names in row["cuts"].values()),
        )
        for row in figures["rows"]
    ]
    begin = [f"{side}: stages begin at" for side in figures["rows"][0]["cuts"]]
    sides = [f"{side} ms" for side in figures["rows"][0]["cuts"]]
    return _table(("model", *sides, "equal takes longer by", *begin), rows)


def memory(figures: Figures) -> str:
    rows = [
        (
            f"{row['ranks']}, {row['micro_batches']}",
            row["schedule"],
            " ".join(map(str, row["verified"])),
            " ".join(map(str, row["measured"])),
        )
        for row in figures["rows"]
    ]
    return _table(("p, m", "schedule", "verifier, by rank", "measured"), rows)


def peers(figures: Figures) -> str:
    sides = list(figures["rows"][0]["seconds"])
    rows = [
        (
            row["schedule"],
            *(f"{row['seconds'][side]['median'] * 1e3:.0f}" for side in sides),
            *map(_spread, row["ratio"].values()),
        )
        for row in figures["rows"]
    ]
    names = [f"{side}, ms" for side in sides] + [f"ours / {side}" for side in sides[1:]]
    return _table(("schedule", *names), rows)


BLOCKS: dict[str, Callable[[Figures], str]] = {
    "clock": clock,
    "compute": compute,
    "cuts": cuts,
    "memory": memory,
    "peers": peers,
}


def _spread(ratio: Figures) -> str:
    return f"{ratio['median']:.3f} ({ratio['min']:.3f} to {ratio['max']:.3f})"


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(names) + " |", "| " + " | ".join("---" for _ in names) + " |"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


if __name__ == "__main__":
    main()
