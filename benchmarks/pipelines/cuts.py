"""Cuts balanced by measured times, beside stages of equally many blocks, on models with a heavy head.

real: two ranks that compute, on two cores. replayed: four ranks whose layers sleep for what the model's units were
measured to take, all longer by one factor, since four ranks cannot compute side by side on two cores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from common import console, ratios, summary, table

from manyhands.parallel.sample import Sample
from manyhands.pipeline import UnitCost, balance
from manyhands.pipeline.stages import measure as measure_units
from manyhands.pipeline.stages import record
from manyhands.plan import Layout, Plan
from manyhands.training import Trainer
from pipelines import models, sleeping
from pipelines.gang import Gang, Sockets, gangs_of, in_turn
from pipelines.models import Size
from pipelines.ours import ours
from pipelines.sleeping import Times

SIZES = {
    "vocabulary 2048": Size(layers=6, width=128, vocabulary=2048, samples=2),
    "vocabulary 8192": Size(layers=6, width=128, vocabulary=8192, samples=2),
}
REPLAYED = 0.25
"""Seconds that a replayed micro-batch takes on one rank."""
EQUAL, BALANCED = "equal blocks", "balanced"


class Looking:
    """Measures what the model's units cost."""

    def __init__(self, size: Size) -> None:
        self.trainer = Trainer(models.job(size), Plan(layout=Layout(pp=2)), device="cpu")

    def units(self) -> list[UnitCost]:
        trainer = self.trainer
        inputs, targets = trainer.feed.micro_batch(0, 0)
        run = partial(Sample(inputs, trainer.learner.autocast).runs(), trainer.model)
        return list(
            measure_units(trainer.model, record(trainer.model, run), run, lambda out: trainer.job.loss(out, targets))
        )


def measure(quick: bool) -> dict[str, Any]:
    rows = []
    for name, size in SIZES.items():
        chosen = replace(size, width=64, layers=4, samples=1) if quick else size
        with Gang(1, partial(_look, size=chosen)) as gang:
            units = gang.ask("units")[0]
        rows += [real(name, chosen, units, quick), replayed(name, chosen, units, quick)]
    show(rows)
    return {"rows": rows}


def real(name: str, size: Size, units: list[UnitCost], quick: bool) -> dict[str, Any]:
    cuts = both(size, units, 2)
    layout = Layout(pp=2)
    sides = {side: ours(partial(models.job, size), layout, found) for side, found in cuts.items()}
    with gangs_of(sides) as gangs:
        seconds = in_turn(gangs, rounds=2 if quick else 6, steps=2)
    return _row(f"{name}, 2 ranks, real", units, cuts, seconds)


def replayed(name: str, size: Size, units: list[UnitCost], quick: bool) -> dict[str, Any]:
    factor = REPLAYED / sum(unit.seconds for unit in units)
    layers = [Times(unit.forward * factor, unit.input * factor, unit.weight * factor) for unit in units]
    cuts = both(size, units, 4)
    job = partial(sleeping.job, layers, size.micro_batches)
    sides = {side: ours(job, Layout(pp=4), found) for side, found in cuts.items()}
    with gangs_of(sides) as gangs:
        seconds = in_turn(gangs, rounds=1 if quick else 3, steps=1)
    return _row(f"{name}, 4 ranks, replayed", units, cuts, seconds)


def both(size: Size, units: Sequence[UnitCost], stages: int) -> dict[str, tuple[int, ...]]:
    """The first unit of each stage, for each way to cut."""
    names = [unit.name for unit in units]
    equal = (0, *(names.index(cut) for cut in models.block_cuts(size, stages)))
    return {EQUAL: equal, BALANCED: balance(units, stages)}


def _row(
    name: str, units: list[UnitCost], cuts: dict[str, tuple[int, ...]], seconds: dict[str, list[float]]
) -> dict[str, Any]:
    return {
        "name": name,
        "cuts": {side: [units[cut].name for cut in found[1:]] for side, found in cuts.items()},
        "seconds": {side: summary(values) for side, values in seconds.items()},
        "equal_over_balanced": ratios(seconds[EQUAL], seconds[BALANCED]),
        "units": {unit.name: [unit.forward, unit.input, unit.weight] for unit in units},
    }


def show(rows: list[dict[str, Any]]) -> None:
    printed = [
        [
            row["name"],
            *(f"{row['seconds'][side]['median'] * 1e3:.0f} ms" for side in (EQUAL, BALANCED)),
            f"{row['equal_over_balanced']['median'] - 1:+.0%}",
        ]
        for row in rows
    ]
    table("Steps under 1F1B", ["", EQUAL, BALANCED, "equal blocks take longer by"], printed)
    for row in rows:
        console.print(f"{row['name']}: stages begin at {row['cuts']}")


def _look(rank: int, sockets: Sockets, size: Size) -> Looking:
    return Looking(size)
