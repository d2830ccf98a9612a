"""What the parts of a job's model cost, for every number of stages that is asked for: a model is cut more finely where
more stages are wanted (pipeline.stages.cuttable)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from torch import Tensor, nn

from manyhands.errors import UserError
from manyhands.parallel.call import call
from manyhands.pipeline.cuts import UnitCost
from manyhands.pipeline.stages import Recording, cuttable, measure
from manyhands.training.trainer import Trainer


def measure_cuts(trainer: Trainer, stages: Sequence[int]) -> dict[str, dict[str, Any]]:
    """For each number of stages, `units` (costs, as dicts) and `parameters` (how many each has); or `uncut`, why not.

    The model is left as it was. Numbers of stages that give the same units share what is measured.
    """
    trainer.recorder.enter("data", 0)
    inputs, targets = trainer.feed.micro_batch(trainer.step, 0)

    def run(model: nn.Module) -> Any:
        with trainer.learner.autocast():
            return call(model, inputs)

    def loss(output: Any) -> Tensor:
        return trainer.job.loss(output, targets)

    found: dict[str, dict[str, Any]] = {}
    known: dict[tuple[str, ...], list[UnitCost]] = {}
    for count in sorted(set(stages)):
        try:
            model, recording = cuttable(trainer.model, run, count)
            names = tuple(unit.name for unit in recording.units)
            if names not in known:
                known[names] = measure(model, recording, lambda model=model: run(model), loss)
            found[str(count)] = _plain(known[names], recording)
        except UserError as error:
            found[str(count)] = {"uncut": str(error)}
    return found


def operators_of(units: Sequence[Mapping[str, Any]], calls: Mapping[str, int]) -> list[int]:
    """Operators of each unit: its own, those of the modules within it, and what comes between it and the next.

    Args:
        calls: by the module whose forward began last, in the order in which they began.
    """
    sums, at = [0] * len(units), 0
    names = [unit["name"].partition("#")[0] for unit in units]
    for module, count in calls.items() if units else ():
        at = next((k for k, name in enumerate(names) if module == name or module.startswith(f"{name}.")), at)
        sums[at] += count
    return sums


def _plain(costs: Sequence[UnitCost], recording: Recording) -> dict[str, Any]:
    units = [
        {name: round(value, 9) if isinstance(value, float) else value for name, value in asdict(cost).items()}
        for cost in costs
    ]
    return {"units": units, "parameters": [len(unit.parameters) for unit in recording.units]}
