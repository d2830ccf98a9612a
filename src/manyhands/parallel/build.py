"""Makes one worker's part of a model: cuts it, divides what is to be divided, and lets go of the rest.

    placed = build(model, Recipe(layout=layout, inputs=batch), Mesh(layout, gang, device))
    output = placed.infer(batch)        # where the last stage is

The workers of a gang build it together, each from the whole model with the same values. Nothing of a training is
needed: a trainer gives `placed.handles` to its optimizer, a server only infers.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from manyhands.collective import assign_blocks
from manyhands.errors import UserError
from manyhands.parallel.cutting import Cut, find_starts, record_further, stages_of, ties_of
from manyhands.parallel.mesh import Mesh
from manyhands.parallel.parts import Names, Part, Placed, Whole, empty, make_handles
from manyhands.parallel.sample import Sample
from manyhands.parallel.sharding import ShardedBody, Sharding, reduces
from manyhands.parallel.traits import model_traits
from manyhands.parallel.ways import form_of
from manyhands.pipeline import Table, make_table
from manyhands.pipeline.randomness import Randomness
from manyhands.pipeline.relay import Relay
from manyhands.pipeline.stages import cuttable, find_units
from manyhands.plan import Layout, Traits, judge
from manyhands.tensor_parallel import apply, derive, whole
from manyhands.tensor_parallel.values import Placement, placement


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is placed on the workers of a layout."""

    layout: Layout
    inputs: Any = None
    """Inputs of a batch like those that will come, to see how the model can be cut or divided; for pp and tp."""
    cuts: Sequence[int] | None = None
    """Numbers of the units that begin the stages, if that was found before."""
    further: Callable[[], Sequence[Any]] = tuple
    """Gives inputs of other forms that the stages are to take in evaluation; asked on rank 0 alone."""
    micro_batches: int | None = None
    """Micro-batches of a step, for the table of a pipeline; None: one for each replica."""
    in_order: bool = True
    """Whether replicas that divide gradients add them up in the order of the micro-batches."""
    compile: bool = False
    """Whether the units are compiled, one by one."""
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
    """Makes what a forward pass runs in."""
    loss: Callable[[Any], Tensor] | None = None
    """The loss of the output for `inputs`: counts when stages are balanced; None: they are balanced without it."""
    traits: Callable[[nn.Module, Sequence[str] | None], Traits] = model_traits
    """The facts by which the layout is judged, of the model and, where they are known, of its units."""

    @property
    def total(self) -> int:
        """Micro-batches of a step."""
        return self.micro_batches or self.layout.dp


def build(model: nn.Module, recipe: Recipe, mesh: Mesh) -> Placed:
    """Place a model. Collective: one worker measures and tells the others.

    Args:
        model: whole, with the same values on every worker. It is changed: what others hold is emptied.

    Raises:
        UserError: the model cannot be split so.
    """
    layout = recipe.layout
    judge(layout, recipe.traits(model, None)).check()
    names = Names(model)
    table = _table(layout, assign_blocks(recipe.total, layout.dp)[mesh.replica].size)
    sample, ties, cut = Sample(recipe.inputs, recipe.autocast), [], None
    if layout.pp > 1:
        model, cut = _cut(model, recipe, table, mesh, sample)
        placements = _split_layers(model, layout, mesh, sample)
        parts, ties = stages_of(model, cut, table, mesh), ties_of(cut, table, mesh)
    else:
        placements = _split_layers(model, layout, mesh, sample)
        parts = [Part(0, Whole(model), list(names.order), list(names.buffers), list(find_units(model)))]
    if recipe.compile:
        for name in {name for part in parts for name in part.units}:
            model.get_submodule(name).compile()
    owned = [name for name in names.order if any(name in part.parameters for part in parts)]
    empty(model, owned)
    shardings, divided = _shard(model, parts, recipe, table, mesh, {tie.name for tie in ties})
    parameters = dict(model.named_parameters())
    mine = set(table.stages_of(mesh.stage_rank))
    randomness = Randomness(mesh.device, others=sample.draws_elsewhere)
    return Placed(
        model=model,
        names=names,
        mesh=mesh,
        parts=parts,
        handles=make_handles(parameters, owned),
        owned=owned,
        borrowed={tie.name for tie in ties if tie.stages[0] not in mine and mine & set(tie.stages)},
        ties=ties,
        table=table,
        cuts=cut.starts if cut else (),
        forms=frozenset({cut.form, *cut.further}) if cut else None,
        parameters=parameters,
        shardings=shardings,
        sharded=divided,
        placements={name: found for name, found in placements.items() if name in owned},
        randomness=randomness,
        relay=_relay(parts, table, mesh, randomness),
        autocast=recipe.autocast,
    )


def _table(layout: Layout, micro_batches: int) -> Table:
    if layout.pp == 1:
        return make_table("vanilla", 1, micro_batches)
    return make_table(layout.schedule, layout.pp, micro_batches, layout.virtual)


def _cut(model: nn.Module, recipe: Recipe, table: Table, mesh: Mesh, sample: Sample) -> tuple[nn.Module, Cut]:
    """How the model is cut, or an exported one in its place; refuses what the layout cannot be.

    Raises:
        UserError: the model cannot be cut like this; says where and why.
    """
    layout, whole_model = recipe.layout, model
    try:
        model, recording = cuttable(model, sample.runs(), layout.stages)
    except UserError as error:
        judge(layout, replace(recipe.traits(model, None), uncut=str(error))).check()
        raise
    judge(layout, recipe.traits(model, [unit.name for unit in recording.units])).check()
    form, further = form_of(recipe.inputs), {}
    # An exported model is a graph of operators on tensors of these very shapes.
    if model is whole_model:
        sampled = partial(Sample, autocast=recipe.autocast)
        further = record_further(model, recording, form, layout.stages, mesh, recipe.further, sampled)
    starts = recipe.cuts
    if starts is None or layout.cuts:
        starts = find_starts(model, recording, table.stages, layout.cuts, mesh, sample, recipe.loss)
    return model, Cut(recording=recording, form=form, further=further, starts=tuple(starts))


def _split_layers(model: nn.Module, layout: Layout, mesh: Mesh, sample: Sample) -> dict[str, Placement]:
    """Divide every layer that can be over the tensor group; returns how the parameters are divided, by name."""
    if layout.tp == 1:
        return {}
    plan = derive(model, partial(sample.runs(), model), layout.tp)
    gc.collect()  # a graph that still waits to be collected keeps nodes that know parameters by their whole shapes
    apply(model, plan, mesh.along("tp"))
    placements = {name: placement(param) for name, param in model.named_parameters()}
    return {name: found for name, found in placements.items() if found is not None and found.split is not None}


def _shard(
    model: nn.Module, parts: Sequence[Part], recipe: Recipe, table: Table, mesh: Mesh, tied: set[str]
) -> tuple[dict[int, Sharding], set[str]]:
    """Divide the parts among replicas: by stage, what does it, and the names of the parameters that are divided."""
    layout = recipe.layout
    shardings: dict[int, Sharding] = {}
    divided: set[str] = set()
    for part in parts if layout.shard else ():
        body = ShardedBody(part.body, model, part.parameters, part.units, tied)
        # A block of its own adds up its gradients of a value before it meets others': not one worker's order.
        blocks = _blocks(model, part.units) if reduces(layout.shard, table.splits_backward) else []
        order = recipe.total if recipe.in_order else None
        shardings[part.index] = Sharding(body, blocks, mesh.along("dp"), layout.shard, table.splits_backward, order)
        part.body = body
        divided |= set(body.divided)
    return shardings, divided


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


def _relay(parts: Sequence[Part], table: Table, mesh: Mesh, randomness: Randomness) -> Relay:
    """What runs the model's stages in inference."""

    def travelling(values: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(whole(list(values))) if mesh.layout.tp > 1 else tuple(values)

    pipe = mesh.process_group("pp") if mesh.layout.pp > 1 else None
    bodies = {part.index: part.body for part in parts}
    return Relay(bodies, table.placement, pipe, mesh.device, randomness, travelling)
