"""Steps of `examples/gpt.py` under DDP, over manyhands and over gloo in turn."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from common import ratios, summary, table

from collectives.sides import GLOO, OURS, in_a_lab, on_this_machine
from manyhands.bench import Fleet
from manyhands.cluster import preset
from manyhands.lab import Lab

PLACES = {"shared memory, 2": 2, "shared memory, 4": 4, "mesh-2": "mesh-2", "mesh-4": "mesh-4"}
ROUNDS, STEPS = 9, 6


def measure(quick: bool) -> dict[str, Any]:
    rows = []
    for name, place in PLACES.items():
        seconds: dict[str, list[float]] = {OURS: [], GLOO: []}
        with _fleets(place) as fleets:
            for fleet in fleets.values():
                fleet.ask("ddp", steps=1)
            for number in range(2 if quick else ROUNDS):
                for side in list(seconds)[:: -1 if number % 2 else 1]:
                    seconds[side].append(max(fleets[side].ask("ddp", steps=STEPS)))
        ratio = ratios(seconds[GLOO], seconds[OURS])
        rows.append({"place": name, "seconds": {s: summary(v) for s, v in seconds.items()}, "ratio": ratio})
    show(rows)
    return {"steps_per_round": STEPS, "rows": rows}


@contextlib.contextmanager
def _fleets(place: int | str) -> Iterator[dict[str, Fleet]]:
    if isinstance(place, int):
        with on_this_machine(place, mpi=False) as fleets:
            yield fleets
    else:
        with Lab(preset(place)) as lab, in_a_lab(lab) as fleets:
            yield fleets


def show(rows: list[dict[str, Any]]) -> None:
    printed = []
    for row in rows:
        cells = [f"{row['seconds'][s]['median']:.3f} ({row['seconds'][s]['min']:.3f})" for s in (OURS, GLOO)]
        printed.append([row["place"], *cells, *(f"{row['ratio'][k]:.2f}" for k in ("median", "min", "max"))])
    columns = ["ranks", OURS, GLOO, "as fast", "least", "most"]
    table("Seconds of a DDP step of gpt.py: median (least)", columns, printed)
