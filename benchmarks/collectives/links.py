"""Collectives over emulated links, beside the bound: no schedule at all is faster on those links."""

from __future__ import annotations

from typing import Any

from common import console, summary, table

from collectives.sides import GLOO, MPI, OURS, PROBED, in_a_lab
from collectives.topologies import Topology, topologies
from manyhands.bench import Timing, alternate
from manyhands.cli.collective_bench import bound, format_size
from manyhands.lab import Lab

ROUNDS = {1 << 20: 5, 16 << 20: 5, 64 << 20: 2}
"""By bytes. Through the slowest of these networks gloo needs 10 s for the last, and Open MPI would need more."""
MOST_MPI = 16 << 20
QUICK = {1 << 20: 1, 16 << 20: 1}
OTHERS = ("reduce_scatter", "all_gather", "broadcast")


def measure(quick: bool) -> dict[str, Any]:
    """All topologies, one lab after another; the other operations on mesh-4 alone."""
    rows: list[dict[str, Any]] = []
    chosen: dict[str, dict[str, str]] = {}
    for topology in topologies()[:: 4 if quick else 1]:
        with Lab(topology.cluster) as lab, in_a_lab(lab, probed=True, mpi=True) as fleets:
            chosen[topology.name] = {side: fleets[side].ask("describe")[0] for side in (OURS, PROBED)}
            chosen[topology.name]["seconds to probe"] = max(about["seconds"] for about in fleets[PROBED].hello)
            for operation in ("all_reduce", *(OTHERS if topology.name == "mesh-4" else ())):
                for size, rounds in (QUICK if quick else ROUNDS).items():
                    if operation != "all_reduce" and size > MOST_MPI:
                        continue
                    some = {side: fleet for side, fleet in fleets.items() if side != MPI or size <= MOST_MPI}
                    timings = alternate(some, operation, size, rounds)
                    rows.append(row(topology, operation, size, timings))
        show([row for row in rows if row["topology"] == topology.name])
        console.print(chosen[topology.name])
    return {"rows": rows, "chosen": chosen, "targets": targets(rows)}


def row(topology: Topology, operation: str, size: int, timings: dict[str, Timing]) -> dict[str, Any]:
    least = bound(topology.cluster, operation, size)
    assert least is not None
    return {
        "topology": topology.name,
        "note": topology.note,
        "operation": operation,
        "bytes": size,
        "bound_seconds": least,
        "seconds": {side: summary(timing.seconds) for side, timing in timings.items()},
        "rate": {side: size / timing.median for side, timing in timings.items()},
        "share": {side: least / timing.median for side, timing in timings.items()},
        "ratio": {side: timings[OURS].over(timings[side]) for side in timings if side != OURS},
    }


def targets(rows: list[dict[str, Any]]) -> dict[str, float]:
    """What was promised, as measured (medians; all-reduce)."""
    large = [row for row in rows if row["operation"] == "all_reduce" and row["bytes"] >= 16 << 20]
    found = {f"least share, {side}": min(row["share"][side] for row in large) for side in (OURS, PROBED)}
    by_name: dict[str, list[dict[str, Any]]] = {}
    for item in large:
        by_name.setdefault(item["topology"], []).append(item)
    for name, label in (("mesh-4", "mesh-4 / gloo"), ("star-4, one slow host", "one slow host / gloo")):
        for item in by_name.get(name, []):
            found[f"{label}, {format_size(item['bytes'])}"] = item["ratio"][GLOO]
    for two, one in zip(by_name.get("two-rail-4", []), by_name.get("star-4", []), strict=False):
        found[f"two rails / one, {format_size(two['bytes'])}"] = two["rate"][OURS] / one["rate"][OURS]
    return found


def show(rows: list[dict[str, Any]]) -> None:
    printed = []
    for item in rows:
        cells = [item["operation"], format_size(item["bytes"]), f"{item['bound_seconds']:.3f}"]
        for side in (OURS, PROBED, GLOO, MPI):
            if side in item["seconds"]:
                seconds = item["seconds"][side]
                cells.append(f"{seconds['median']:.3f} ({seconds['min']:.3f}) {item['share'][side]:.2f}")
            else:
                cells.append("-")
        cells += [f"{item['ratio'][side]:.2f}" if side in item["ratio"] else "-" for side in (GLOO, MPI)]
        printed.append(cells)
    title = f"{rows[0]['topology']}: median (least) seconds, share of the bound"
    table(title, ["", "bytes", "bound", OURS, "probed", GLOO, MPI, "/ gloo", "/ MPI"], printed)
