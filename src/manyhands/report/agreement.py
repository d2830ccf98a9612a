"""When replicas agreed: staleness by step, what servers moved, how long workers waited."""

from __future__ import annotations

from collections import defaultdict
from html import escape

from manyhands.report.chart import (
    Mark,
    band,
    bottom_axis,
    columns,
    duration,
    left_axis,
    line,
    number,
    plot,
    stretched,
    value_axis,
)
from manyhands.report.page import section, table
from manyhands.report.story import Story


def agreement(run: Story) -> str:
    """The section of a run whose policy is not the usual one; empty for an all-reduce."""
    policy = run.settings.get("plan", {}).get("sync", "allreduce")
    if policy.startswith("allreduce") and not run.kinds["staleness"] and not run.kinds["server"]:
        return ""
    lead = f"--sync {escape(policy)}."
    points = [(entry["step"], float(entry["pushes"])) for entry in run.kinds["staleness"]]
    body = ""
    if points:
        values = sorted(value for _, value in points)
        lead += (
            f" Between a share's pull and its push {number(values[len(values) // 2])} pushes of others were applied in "
            f"the median step, at most {number(values[-1])}. The fastest worker was at most "
            f"{max(entry['ahead'] for entry in run.kinds['staleness'])} shares ahead of the slowest."
        )
        body += f"<h3>Staleness: pushes of others</h3>{_staleness(run, points)}"
    return section("agreement", "When replicas agreed", lead, body + _servers(run) + _waiting(run))


def _staleness(run: Story, points: list[tuple[float, float]]) -> str:
    parts = columns(points)
    x, y = run.step_axis(), value_axis([value for _, value in points], zero=True)
    curves = band(x, y, parts, "spread") if len(points) > len(parts) else ""
    curves += line(x, y, [(part.x, part.mean) for part in parts], "train")
    marks = [Mark(x.at(p.x), 100 - y.at(p.mean), f"step {p.first:,}: {number(p.mean)} pushes") for p in parts]
    axes = left_axis(y) + bottom_axis(x, "step", whole=True)
    return plot("Staleness by step, in pushes of other workers", axes + stretched(curves), 130, marks)


def _servers(run: Story) -> str:
    totals: dict[int, list[int]] = defaultdict(lambda: [0, 0])
    for entry in run.kinds["server"]:
        totals[entry["server"]][0] += entry["received"]
        totals[entry["server"]][1] += entry["sent"]
    if not totals:
        return ""
    steps = max(1, len(run.steps))
    rows = [
        [f"server {server}", *(f"{count / 1e6:,.1f}<small>{count / steps / 1e6:.2f} a step</small>" for count in moved)]
        for server, moved in sorted(totals.items())
    ]
    heads = ["MB", "received", "sent"]
    return "<h3>What servers moved</h3>" + table("Megabytes that each server received and sent", heads, rows, "servers")


def _waiting(run: Story) -> str:
    seconds: dict[int, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for entry in run.kinds["phases"]:
        waited = entry["seconds"].get("idle", 0.0) + entry["seconds"].get("exchange", 0.0)
        seconds[entry["rank"]][0] += waited
        seconds[entry["rank"]][1] += sum(entry["seconds"].values())
    rows = [
        [run.who(rank), duration(waited), f"{100 * waited / whole:.0f} %"]
        for rank, (waited, whole) in sorted(seconds.items())
        if run.who(rank).startswith("worker") and whole
    ]
    if not rows:
        return ""
    heads = ["", "waited", "of its time"]
    return "<h3>How long workers waited</h3>" + table("Time that each worker waited for others", heads, rows, "waiting")
