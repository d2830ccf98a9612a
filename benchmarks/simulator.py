"""How long simulations take: by policy, jobs and slots; and how much sooner jobs are done than under FIFO.

python benchmarks/simulator.py [--trace philly_chronus_slo.csv --policies fifo,las,fair]

Generated jobs (fitted to a public trace), or those of a trace that come faster or slower, so that the load is 1
(--load), on hosts of 8 slots. Expectation: 30,000 jobs in under
60 s; some policy ends jobs at least twice as soon as FIFO, on 64 to 1,024 slots. `docs/simulator-time.svg` shows how
the time grows.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import ROOT, arguments, console, machine, table, write_results

from manyhands.jobs.policies import policy_of
from manyhands.jobs.simulator import World, figures, generate, generate_pairs, read_trace, simulate

POLICIES = ("fifo", "priority", "las", "fair", "fifo+elastic", "las+consolidate", "fifo+pack")
JOBS = (1000, 3000, 10_000, 30_000)
SLOTS = (64, 256, 1024)
KINDS = 26
COLOURS = ("#2a78d6", "#1baf7a", "#eda100", "#eb6834", "#4a3aa7", "#008300", "#e87ba4")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--trace", type=Path, help="a public one, instead of generated jobs")
    parser.add_argument("--policies", default=",".join(POLICIES))
    parser.add_argument("--load", type=float, default=1.0)
    options = parser.parse_args()
    facts, rows = machine(), list[dict[str, Any]]()
    jobs = JOBS[:1] if options.quick else JOBS
    for slots in SLOTS[:1] if options.quick else SLOTS:
        for count in jobs if options.trace is None else jobs[-1:]:
            for policy in options.policies.split(","):
                rows.append(run(options.trace, policy, count, slots, options.load))
                console.print(
                    f"{slots} slots, {rows[-1]['jobs']} jobs, {policy}: {rows[-1]['seconds']:.1f} s, "
                    f"mean completion {rows[-1]['mean'] / 3600:.1f} h"
                )
    show(rows)
    write_results("simulator" if options.trace is None else "simulator_trace", options.quick, facts, {"rows": rows})
    if options.trace is None and not options.quick:
        (ROOT / "docs" / "simulator-time.svg").write_text(drawing(rows))


def run(path: Path | None, policy: str, jobs: int, slots: int, load: float) -> dict[str, Any]:
    packs = "pack" in policy
    if path is not None:
        trace, pairs = read_trace(path).first(jobs).at_load(load, slots), {}
    else:
        elastic = 0.3 if "elastic" in policy else 0.0
        spread = 0.7 if "consolidate" in policy else 1.0
        trace = generate(jobs, slots, load=load, elastic=elastic, spread=spread, kinds=KINDS if packs else 1)
        pairs = generate_pairs(KINDS) if packs else {}
    world = World(hosts=[8] * (slots // 8), pairs=pairs, trial=60.0 if packs else None)
    began = time.perf_counter()
    found = figures(simulate(trace, world, policy_of(policy, world.restart)))
    seconds = time.perf_counter() - began
    times = {"mean": found.completion["mean"], "p99_wait": found.wait["p99"], "useful": found.useful}
    return {"policy": policy, "jobs": len(trace), "slots": slots, "seconds": seconds, **times}


def show(rows: Sequence[dict[str, Any]]) -> None:
    most = max(row["jobs"] for row in rows)
    largest = [row for row in rows if row["jobs"] == most]
    means = {row["slots"]: row["mean"] for row in largest if row["policy"] == "fifo"}
    cells = []
    for row in largest:
        sooner = f"{means[row['slots']] / row['mean']:.2f}x" if row["slots"] in means else "-"
        hours = f"{row['mean'] / 3600:.1f} h", f"{row['p99_wait'] / 3600:.1f} h"
        cells.append(
            [row["policy"], str(row["slots"]), f"{row['seconds']:.1f} s", *hours, sooner, f"{row['useful']:.0%}"]
        )
    columns = ["policy", "slots", "simulated in", "done in (mean)", "waited (p99)", "sooner than fifo", "useful"]
    table(f"{most} jobs", columns, cells)


def drawing(rows: Sequence[dict[str, Any]]) -> str:
    """Seconds over jobs, both logarithmic: a panel for each number of slots, a line for each policy."""
    import math

    width, height, left, top = 250, 240, 52, 40
    counts = sorted({row["jobs"] for row in rows})
    panels = sorted({row["slots"] for row in rows})
    low, high = -2.0, 2.0

    def x(jobs: int, panel: int) -> float:
        part = math.log(jobs / counts[0]) / max(1e-9, math.log(counts[-1] / counts[0]))
        return left + panel * (width + 30) + part * width

    def y(seconds: float) -> float:
        return top + height * (1 - (max(low, math.log10(seconds)) - low) / (high - low))

    parts = []
    for panel, slots in enumerate(panels):
        parts.append(f'<text x="{x(counts[0], panel)}" y="{top - 14}" class="title">{slots} slots</text>')
        for power in range(int(low), int(high) + 1):
            line = y(10.0**power)
            ends = x(counts[0], panel), x(counts[-1], panel)
            parts.append(f'<line x1="{ends[0]}" x2="{ends[1]}" y1="{line}" y2="{line}" class="grid"/>')
            if panel == 0:
                parts.append(f'<text x="{left - 8}" y="{line + 4}" class="side">{10.0**power:g} s</text>')
        for count in counts:
            parts.append(f'<text x="{x(count, panel)}" y="{top + height + 18}" class="below">{count // 1000}k</text>')
        for index, policy in enumerate(dict.fromkeys(row["policy"] for row in rows)):
            own = sorted((r["jobs"], r["seconds"]) for r in rows if (r["policy"], r["slots"]) == (policy, slots))
            points = " ".join(f"{x(jobs, panel):.1f},{y(seconds):.1f}" for jobs, seconds in own)
            parts.append(f'<polyline points="{points}" stroke="{COLOURS[index]}"/>')
            if panel == 0:
                across = left + (index % 4) * 200
                down = top + height + 48 + 22 * (index // 4)
                parts.append(f'<rect x="{across}" y="{down - 10}" width="12" height="12" fill="{COLOURS[index]}"/>')
                parts.append(f'<text x="{across + 18}" y="{down}">{policy}</text>')
    wide, tall = left + len(panels) * (width + 30), top + height + 90
    style = (
        "text{font:13px system-ui,sans-serif;fill:#585d65}.title{font-weight:600}.side{text-anchor:end}"
        ".below{text-anchor:middle}.grid{stroke:#8886}polyline{fill:none;stroke-width:2}"
        "@media(prefers-color-scheme:dark){text{fill:#a6abb3}}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {tall}" role="img" '
        'aria-label="seconds that a simulation takes over the number of jobs">'
        f"<style>{style}</style>{''.join(parts)}</svg>\n"
    )


if __name__ == "__main__":
    main()
