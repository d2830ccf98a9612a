"""How many bytes cross the interfaces of hosts, counted by the kernel."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from common import table

from collectives.sides import GLOO, MPI, OURS, in_a_lab
from manyhands.cluster import preset
from manyhands.lab import Lab

SIZE = 16 << 20
WIDTH, LAYERS = 1024, 4
STEPS = 3


def measure(quick: bool) -> dict[str, Any]:
    """Every host of star-4 has one interface; the most that one sent, and received, as a share of the data."""
    rows: list[dict[str, Any]] = []
    cluster = preset("star-4")
    share = (len(cluster.ranks) - 1) / len(cluster.ranks)
    with Lab(cluster) as lab, in_a_lab(lab, mpi=True) as fleets:
        for side, fleet in fleets.items():
            for operation, times in (("reduce_scatter", 1), ("all_gather", 1), ("all_reduce", 2)):
                fleet.ask("check", operation=operation, size=SIZE)
                ask = partial(fleet.ask, "time", operation=operation, size=SIZE, repeat=STEPS)
                rows.append(counted(lab, side, operation, SIZE, times * share, ask))
            if side != MPI:
                size = fleet.ask("fsdp", steps=2, width=WIDTH, layers=LAYERS)[0]
                ask = partial(fleet.ask, "fsdp", steps=STEPS, width=WIDTH, layers=LAYERS)
                rows.append(counted(lab, side, "FSDP2 step", size, 3 * share, ask))
    show(rows)
    steps = {row["side"]: row["sent"] for row in rows if row["operation"] == "FSDP2 step"}
    return {"rows": rows, "fsdp_bytes_less_than_gloo": 1 - steps[OURS] / steps[GLOO]}


def counted(lab: Lab, side: str, operation: str, size: int, least: float, run: Callable[[], object]) -> dict[str, Any]:
    """Of what crosses the interfaces in one of STEPS runs, as a share of `size`; headers are counted too."""
    before = lab.byte_counters()
    run()
    after = lab.byte_counters()
    moved = {link: (after[link] - before[link]) / STEPS / size for link in after}
    sent = max(value for (source, _, _), value in moved.items() if source in lab.cluster.ranks)
    received = max(value for (_, target, _), value in moved.items() if target in lab.cluster.ranks)
    return {
        "side": side,
        "operation": operation,
        "bytes": size,
        "least": least,
        "sent": sent,
        "received": received,
    }


def show(rows: list[dict[str, Any]]) -> None:
    printed = [
        [row["operation"], row["side"], *(f"{row[key]:.3f}" for key in ("least", "sent", "received"))]
        for row in sorted(rows, key=lambda row: row["operation"])
    ]
    table("Bytes over each host's interface / bytes of data, star-4", ["", "", "least", "sent", "received"], printed)
