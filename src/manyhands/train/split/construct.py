"""Makes one worker's part of a model: cuts it, divides what is to be divided, and lets go of the rest."""

from __future__ import annotations

import gc
import json
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor, nn

from manyhands.collective import assign_blocks
from manyhands.errors import UserError
from manyhands.parallel.mesh import Mesh
from manyhands.parallel.parts import Built, Part, Whole, empty, give_to, make_handles
from manyhands.parallel.sharding import ShardedBody, Sharding, reduces
from manyhands.parallel.ties import Tie
from manyhands.parallel.traits import find_traits
from manyhands.pipeline import Table, balance, make_table
from manyhands.pipeline.stages import Recording, StageModule, cuttable, find_units, measure
from manyhands.plan import Layout, Traits, judge
from manyhands.tensor_parallel import apply, context, derive
from manyhands.tensor_parallel.values import Placement, placement

if TYPE_CHECKING:
    from manyhands.train.split.trainer import SplitTrainer


def construct(trainer: SplitTrainer, mesh: Mesh, cuts: Sequence[int] | None) -> Built:
    """Split the trainer's model. Collective: one worker measures and tells the others.

    Args:
        cuts: the first unit of every stage, if that was found before.

    Raises:
        UserError: the model cannot be split so.
    """
    model, layout = trainer.model, trainer.layout
    traits = find_traits(trainer.job, model)
    judge(layout, traits).check()
    table = _table(layout, assign_blocks(trainer.job.micro_batches, layout.dp)[mesh.replica].size)
    before: dict[Tensor, str] = {param: name for name, param in model.named_parameters()}
    ties: list[Tie] = []
    found: tuple[int, ...] = ()
    if layout.pp > 1:
        recording = _record(trainer, traits)
        model = trainer.model
        found = _cuts(trainer, mesh, recording, table.stages, cuts)
        placements = _split_layers(trainer, mesh)
        parts = _stages(model, recording, table, found, mesh)
        ties = _ties(recording, table, found, mesh)
    else:
        placements = _split_layers(trainer, mesh)
        names = trainer.names
        parts = [Part(0, Whole(model), list(names.order), list(names.buffers), list(find_units(model)))]
    if trainer.job.compile:
        for name in {name for part in parts for name in part.units}:
            model.get_submodule(name).compile()
    owned = [name for name in trainer.names.order if any(name in part.parameters for part in parts)]
    empty(model, owned)
    shardings: dict[int, Sharding] = {}
    divided: set[str] = set()
    if layout.shard:
        for part in parts:
            body = ShardedBody(part.body, model, part.parameters, part.units, {tie.name for tie in ties})
            # A block of its own adds up its gradients of a value before it meets others': not one worker's order.
            blocks = _blocks(model, part.units) if reduces(layout.shard, table.splits_backward) else []
            order = trainer.job.micro_batches if trainer.job.reproducible else None
            shardings[part.index] = Sharding(body, blocks, mesh.along("dp"), layout.shard, table.splits_backward, order)
            part.body = body
            divided |= set(body.divided)
    parameters = dict(model.named_parameters())
    handles = make_handles(parameters, owned)
    give_to(trainer.optimizer, before, handles)
    mine = set(table.stages_of(mesh.stage_rank))
    borrowed = {tie.name for tie in ties if tie.stages[0] not in mine and mine & set(tie.stages)}
    return Built(
        parts=parts,
        handles=handles,
        owned=owned,
        ties=ties,
        table=table,
        cuts=found,
        mesh=mesh,
        parameters=parameters,
        shardings=shardings,
        sharded=divided,
        placements={name: found for name, found in placements.items() if name in owned},
        context=context if layout.tp > 1 else nullcontext,
        borrowed=borrowed,
    )


def _record(trainer: SplitTrainer, traits: Traits) -> Recording:
    """How the model can be cut; refuses what the layout cannot be.

    Raises:
        UserError: the model cannot be cut like this; says where and why.
    """
    try:
        trainer.model, recording = cuttable(trainer.model, trainer.sample(), trainer.layout.stages)
    except UserError as error:
        judge(trainer.layout, replace(traits, uncut=str(error))).check()
        raise
    names = [unit.name for unit in recording.units]
    judge(trainer.layout, find_traits(trainer.job, trainer.model, names)).check()
    return recording


def _split_layers(trainer: SplitTrainer, mesh: Mesh) -> dict[str, Placement]:
    """Divide every layer that can be over the tensor group; by name, how the parameters are divided."""
    if trainer.layout.tp == 1:
        return {}
    plan = derive(trainer.model, partial(trainer.sample(), trainer.model), trainer.layout.tp)
    gc.collect()  # a graph that still waits to be collected keeps nodes that know parameters by their whole shapes
    apply(trainer.model, plan, mesh.along("tp"))
    placements = {name: placement(param) for name, param in trainer.model.named_parameters()}
    return {name: found for name, found in placements.items() if found is not None and found.split is not None}


def _table(layout: Layout, micro_batches: int) -> Table:
    if layout.pp == 1:
        return make_table("vanilla", 1, micro_batches)
    return make_table(layout.schedule, layout.pp, micro_batches, layout.virtual)


def _cuts(
    trainer: SplitTrainer, mesh: Mesh, recording: Recording, stages: int, known: Sequence[int] | None
) -> tuple[int, ...]:
    """The first unit of every stage: given by the user, known from before, or found by measuring."""
    names = [unit.name for unit in recording.units]
    if trainer.layout.cuts:
        return (0, *(_unit(cut, names) for cut in trainer.layout.cuts))
    if known is not None:
        return tuple(known)
    said = ""
    if mesh.rank == 0:
        run = partial(trainer.sample(), trainer.model)
        said = json.dumps(balance(measure(trainer.model, recording, run, trainer.sample_loss), stages))
    return tuple(json.loads(mesh.gang.all_gather_bytes(said.encode())[0]))


def _unit(cut: str | int, names: list[str]) -> int:
    if isinstance(cut, int) and 0 < cut < len(names):
        return cut
    if cut in names[1:]:
        return names.index(str(cut))
    raise UserError(f"cuts={cut}: the model cannot be cut there. It can be cut before: {', '.join(names[1:])}.")


def _stages(model: nn.Module, recording: Recording, table: Table, cuts: tuple[int, ...], mesh: Mesh) -> list[Part]:
    """This worker's stages."""
    ends = [*cuts[1:], len(recording.units)]
    parts = []
    for stage in table.stages_of(mesh.stage_rank):
        units = recording.units[cuts[stage] : ends[stage]]
        parameters = list(dict.fromkeys(name for unit in units for name in unit.parameters))
        buffers = list(dict.fromkeys(name for unit in units for name in unit.buffers))
        body = StageModule(model, recording, cuts[stage], ends[stage])
        names = list(dict.fromkeys(unit.name.partition("#")[0] for unit in units))
        parts.append(Part(stage, body, parameters, buffers, names))
    return parts


def _blocks(model: nn.Module, units: Sequence[str]) -> list[nn.Module]:
    """The members of lists among the units, gathered one at a time, unless they share a weight with another module.
    What else there is may be used without being called, as a tied weight is: FSDP would not notice."""
    uses = Counter(param for _, param in model.named_parameters(remove_duplicate=False))
    found = []
    for name in units:
        parent = model.get_submodule(name.rpartition(".")[0])
        if isinstance(parent, nn.ModuleList | nn.Sequential):
            block = model.get_submodule(name)
            if all(uses[param] == 1 for param in block.parameters()):
                found.append(block)
    return found


def _ties(recording: Recording, table: Table, cuts: tuple[int, ...], mesh: Mesh) -> list[Tie]:
    """The parameters that several stages use, on the ranks that have one of these stages."""
    ends = [*cuts[1:], len(recording.units)]
    ties = []
    for number, (name, units) in enumerate(recording.ties.items()):
        stages = sorted({s for u in units for s in range(table.stages) if cuts[s] <= u < ends[s]})
        ranks = [table.placement[stage] for stage in stages]
        if len(stages) > 1 and mesh.stage_rank in ranks:
            ties.append(Tie(number, name, stages, ranks, mesh.process_group("pp")))
    return ties
