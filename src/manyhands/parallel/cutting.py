"""Where a model is cut into stages, and what each of them holds."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from manyhands.errors import UserError
from manyhands.parallel.mesh import Mesh
from manyhands.parallel.modes import evaluating
from manyhands.parallel.parts import Part
from manyhands.parallel.sample import Sample
from manyhands.parallel.ties import Tie
from manyhands.parallel.ways import Form, Ways, as_plain, form_of, from_plain
from manyhands.pipeline import Table, balance
from manyhands.pipeline.stages import Recording, StageModule, measure, record


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A model as it is cut, for one form of batch and perhaps others."""

    recording: Recording
    form: Form
    further: dict[Form, Recording]
    """Recordings for batches of other forms. They have the same units."""
    starts: tuple[int, ...]
    """The first unit of every stage."""

    def units(self, stage: int) -> range:
        """Numbers of a stage's units."""
        ends = (*self.starts[1:], len(self.recording.units))
        return range(self.starts[stage], ends[stage])


def find_starts(
    model: nn.Module,
    recording: Recording,
    stages: int,
    given: Sequence[str | int],
    mesh: Mesh,
    sample: Sample,
    loss: Callable[[Any], Tensor] | None,
) -> tuple[int, ...]:
    """The first unit of every stage: given by the user, or found by measuring, which rank 0 does for all.

    Raises:
        UserError: the model cannot be cut where the user wants.
    """
    names = [unit.name for unit in recording.units]
    if given:
        return (0, *(_unit(cut, names) for cut in given))
    said = ""
    if mesh.rank == 0:
        said = json.dumps(balance(measure(model, recording, partial(sample.runs(), model), loss), stages))
    return tuple(json.loads(mesh.gang.all_gather_bytes(said.encode())[0]))


def _unit(cut: str | int, names: list[str]) -> int:
    if isinstance(cut, int) and 0 < cut < len(names):
        return cut
    if cut in names[1:]:
        return names.index(str(cut))
    raise UserError(f"cuts={cut}: the model cannot be cut there. It can be cut before: {', '.join(names[1:])}.")


def record_further(
    model: nn.Module,
    recording: Recording,
    known: Form,
    stages: int,
    mesh: Mesh,
    further: Callable[[], Sequence[Any]],
    sampled: Callable[[Any], Sample],
) -> dict[Form, Recording]:
    """Recordings of the model in evaluation, for batches of other forms than the known one. Rank 0 makes them for all.
    A form for which there is none is left out: the stages do not take such batches.

    Args:
        further: gives the inputs of a batch of each form; asked on rank 0 alone.
        sampled: makes a sample of a batch's inputs.
    """
    names = [unit.name for unit in recording.units]
    said = []
    for inputs in further() if mesh.rank == 0 else ():
        if (form := form_of(inputs)) == known:
            continue
        with evaluating(model), suppress(UserError):
            made = record(model, partial(sampled(inputs).runs(), model), stages)
            if [unit.name for unit in made.units] == names:
                said.append([as_plain(form), made.as_dict()])
    told = json.loads(mesh.gang.all_gather_bytes(json.dumps(said).encode())[0])
    return {from_plain(form): Recording.from_dict(found) for form, found in told}


def stages_of(model: nn.Module, cut: Cut, table: Table, mesh: Mesh) -> list[Part]:
    """This worker's stages."""
    parts = []
    for stage in table.stages_of(mesh.stage_rank):
        numbers = cut.units(stage)
        units = [cut.recording.units[number] for number in numbers]
        parameters = list(dict.fromkeys(name for unit in units for name in unit.parameters))
        buffers = list(dict.fromkeys(name for unit in units for name in unit.buffers))
        main = StageModule(model, cut.recording, numbers.start, numbers.stop)
        further = {form: StageModule(model, made, numbers.start, numbers.stop) for form, made in cut.further.items()}
        names = list(dict.fromkeys(unit.name.partition("#")[0] for unit in units))
        parts.append(Part(stage, Ways(cut.form, main, further), parameters, buffers, names))
    return parts


def ties_of(cut: Cut, table: Table, mesh: Mesh) -> list[Tie]:
    """The parameters that several stages use, on the ranks that have one of these stages."""
    ties = []
    for number, (name, units) in enumerate(cut.recording.ties.items()):
        stages = sorted({stage for unit in units for stage in range(table.stages) if unit in cut.units(stage)})
        ranks = [table.placement[stage] for stage in stages]
        if len(stages) > 1 and mesh.stage_rank in ranks:
            ties.append(Tie(number, name, stages, ranks, mesh.process_group("pp")))
    return ties
