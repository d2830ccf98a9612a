"""Writes the figures of benchmarks/results/sync_*.json into docs/sync-measured.md, between its markers.

What was not measured keeps what the page says. `--quick` prints the page with the figures of a trial instead.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "sync-measured.md"
RESULTS = ROOT / "benchmarks" / "results"
PLACES = ("equal", "slow_worker", "slow_machine", "star", "star_light", "slow_link")
Figures = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="print it, with the figures of a trial")
    quick = parser.parse_args().quick
    text, suffix = PAGE.read_text(), ".quick.json" if quick else ".json"
    paths = {part: RESULTS / f"sync_{part}{suffix}" for part in (*PLACES, "rates")}
    found = {part: json.loads(path.read_text()) for part, path in paths.items() if path.exists()}
    blocks: dict[str, Callable[[], str]] = {"machine": lambda: machines(found), "summary": lambda: best(found)}
    for part, figures in found.items():
        blocks[part] = lambda part=part, figures=figures: (rates if part == "rates" else place)(figures)
    for part, write in blocks.items() if found else ():
        marker = re.compile(rf"(<!-- {part}:[^\n]*-->\n).*?(<!-- end -->)", re.DOTALL)
        block = write()
        text, count = marker.subn(lambda match, block=block: f"{match[1]}{block}\n{match[2]}", text)
        assert count == 1, f"{PAGE} has {count} markers {part}"
    if quick:
        print(text)
    else:
        PAGE.write_text(text)


def machines(found: dict[str, Figures]) -> str:
    rows = []
    for part, figures in found.items():
        facts = figures["machine"]
        load = f"{facts['load_before']:.1f} to {figures['load_after']:.1f}"
        rows.append((part, facts["date"][:16], facts["commit"], load, f"`{figures['command']}`"))
    first = next(iter(found.values()))["machine"]
    about = f"{first['processor']}, {first['cores']} cores, {first['memory_gb']} GB, {first['system']}"
    return f"{about}, Python {first['python']}, torch {first['torch']}.\n\n" + _table(
        ("part", "begun (UTC)", "commit", "load", "command"), rows
    )


def best(found: dict[str, Figures]) -> str:
    """What was quickest where, of what always reached the goal, and whether predictions hold."""
    rows = []
    for part in PLACES:
        for example, figures in found.get(part, {}).get("examples", {}).items():
            sides = {s: f for s, f in figures["sides"].items() if f["reached"] == f["of"]}
            if not sides:
                continue
            least = min(sides, key=lambda side: sides[side]["seconds"]["median"])
            cells = [sides[least].get(name) for name in ("over_allreduce", "over_ddp")]
            ratios = [_spread(cell, "{:.2f}") if cell else "" for cell in cells]
            rows.append((part, example, f"`{least}`", f"{sides[least]['seconds']['median']:.1f}", *ratios))
    names = ("situation", "example", "quickest", "seconds", "/ all-reduce", "/ DDP")
    text = _table(names, rows)
    if "rates" in found:
        held = "holds" if found["rates"]["target_met"] else "is missed"
        error = found["rates"]["worst_error"]
        text += f"\n\nPredictions of servers' rates: worst error {error:.1%}; the target of 15 % {held}."
    return text


def place(figures: Figures) -> str:
    texts = []
    if figures.get("without_ray"):
        texts.append(f"Ray's asynchronous parameter server is missing: {figures['without_ray']}.")
    for example, found in figures["examples"].items():
        size, flags = found["model_bytes"] / 1e6, found["case"]["flags"]
        texts.append(
            f"`examples/{example}.py {flags}`, {size:.2f} MB of parameters, until a loss of {found['goal']:.3f}; "
            f"rounds: {figures['rounds']}."
        )
        bounds = found["bound_seconds_per_step"]
        rows = [_side(side, cells, bounds) for side, cells in found["sides"].items()]
        if bounds:
            least = f"{found['optimum_seconds_per_step'] * 1e3:.0f}"
            texts[-1] += f" No all-reduce at all, whatever its trees, takes less than {least} ms there."
        bound = ["bound, ms"] if bounds else []
        texts.append(
            _table(("", "reached", "seconds", "steps", "ms a step", *bound, "time / DDP", "time / all-reduce"), rows)
        )
    return "\n\n".join(texts)


def _side(side: str, figures: Figures, bounds: dict[str, float] | None) -> list[str]:
    cells = [f"`{side}`", f"{figures['reached']} of {figures['of']}"]
    cells.append(_spread(figures["seconds"], "{:.1f}") if "seconds" in figures else "not reached")
    cells.append(_spread(figures["steps"], "{:.0f}") if "steps" in figures else "")
    cells.append(f"{figures['seconds_per_step']['median'] * 1e3:.0f}" if "seconds_per_step" in figures else "-")
    if bounds is not None:
        cells.append(f"{bounds[side] * 1e3:.0f}" if side in bounds else "")
    return cells + [_spread(figures[n], "{:.2f}") if n in figures else "" for n in ("over_ddp", "over_allreduce")]


def rates(figures: Figures) -> str:
    needed = figures["servers_needed"]
    about = (
        f"{figures['workers']} workers, {figures['bytes'] / 1e6:.1f} MB of gradients, links of "
        f"{figures['bandwidth'] / 1e6} MB/s, {figures['rounds']} rounds. By their bytes servers beat all-reduce from "
        f"{needed['push, then pull']} on, if a pull begins when all pushes are there; from {needed['both at once']} on "
        "if both could go on at once."
    )
    rows = [
        (
            row["side"],
            _spread(row["seconds"], "{:.2f}"),
            f"{row['rate'] / 1e6:.2f}",
            f"{row['predicted_seconds']:.2f}",
            f"{row['error']:+.1%}",
            f"{row['bound_seconds']:.2f}",
        )
        for row in figures["rows"]
    ]
    names = ("", "s a step", "MB/s", "predicted s", "error", "bound s")
    return about + "\n\n" + _table(names, rows)


def _spread(values: Figures, form: str) -> str:
    return f"{form} ({form} to {form})".format(values["median"], values["min"], values["max"])


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(names) + " |", "| " + " | ".join("---" for _ in names) + " |"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


if __name__ == "__main__":
    main()
