"""From a model and one example run to a plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from manyhands.errors import UsageError
from manyhands.tensor_parallel.derive.labels import Findings, Projection, observe
from manyhands.tensor_parallel.derive.model_plan import model_plan
from manyhands.tensor_parallel.derive.regions import Region, find_regions
from manyhands.tensor_parallel.plan import ModulePlan, Style, TensorPlan
from manyhands.tensor_parallel.split import Split, evenly

LARGE_EMBEDDING = 1 << 20
"""Elements from which an embedding of its own is split: the price is an all-reduce of its output."""


def derive(
    model: nn.Module,
    example_call: Callable[[], Any],
    degree: int,
    *,
    sequence: bool = False,
    large_embedding: int = LARGE_EMBEDDING,
) -> TensorPlan:
    """How to split a model over `degree` workers. Deterministic: the same on every worker.

    Args:
        example_call: runs the model once, on an example that is as small as you like. Its buffers and the random
            generators are put back.
        sequence: share activations out along the sequence between split projections, which saves their memory.
        large_embedding: embeddings with fewer elements stay whole, unless a split head has the same weight.

    Raises:
        UsageError: the degree is not a whole number above 0.
    """
    if degree < 1:
        raise UsageError(f"a tensor group has at least one worker; tp is {degree}. Set tp=1 or more.")
    if degree == 1:
        return TensorPlan(degree=1, modules=tuple(_whole(name, "one worker") for name in _with_parameters(model)))
    findings = observe(model, example_call)
    named = model_plan(model)
    regions = find_regions(findings, degree)
    _agree_on_ties(findings, regions)
    planned = dict(_projections(findings, regions, named))
    planned.update(_embeddings(model, findings, planned, named, degree, large_embedding))
    if sequence:
        planned.update(_on_sequence(findings, regions))
    for name in _with_parameters(model):
        if name not in findings.called:
            planned[name] = _whole(name, "not called in the example", called=False)
        elif name not in planned:
            planned[name] = _whole(name, _reason(findings, regions, name, named))
    modules = tuple(planned[name] for name in _with_parameters(model))
    return TensorPlan(degree=degree, sequence=sequence, modules=modules)


def _with_parameters(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if next(module.parameters(recurse=False), None) is not None]


def _whole(name: str, why: str, called: bool = True) -> ModulePlan:
    return ModulePlan(module=name, style=Style.REPLICATED, why=why, called=called)


def _agree_on_ties(findings: Findings, regions: list[Region]) -> None:
    """A weight that several modules share is split alike by all, or by none."""
    users: dict[str, list[tuple[Region, tuple[int, Split]]]] = {}
    for region in regions:
        if not region.refused:
            for name, split in _split_modules(region):
                weight = findings.projections[name].weight
                users.setdefault(weight, []).append((region, (_weight_dim(findings, region, name), split)))
    for weight, uses in users.items():
        sharing = [p.module for p in findings.projections.values() if p.weight == weight]
        embeddings = [name for name, used in findings.embeddings.items() if used == weight]
        alike = len(uses) == len(sharing) and all(how == uses[0][1] for _, how in uses)
        if not alike or (embeddings and (uses[0][1][0] != 0 or uses[0][1][1].pieces != (1,))):
            for region, _ in uses:
                all_users = ", ".join(sharing + embeddings)
                region.refused = f"{weight} is shared by modules that cannot be split alike: {all_users}"


def _split_modules(region: Region) -> Iterator[tuple[str, Split]]:
    yield from region.members.items()
    yield from region.consumers.items()


def _weight_dim(findings: Findings, region: Region, name: str) -> int:
    """Which dimension of the weight holds the features that are split."""
    return int((name in region.members) == findings.projections[name].transposed)


def _projections(findings: Findings, regions: list[Region], named: dict[str, str]) -> Iterator[tuple[str, ModulePlan]]:
    for region in regions:
        if region.refused:
            continue
        for name, split in _split_modules(region):
            projection, column = findings.projections[name], name in region.members
            style = Style.COLUMN if column else Style.ROW
            why = _why(region, projection, split, column)
            if named.get(name) == style:
                why += "; the model's tp_plan says so, too"
            yield name, ModulePlan(
                module=name, style=style, why=why, split=split, bias=projection.bias if column else None,
                weight=(projection.weight, _weight_dim(findings, region, name)),
            )  # fmt: skip


def _why(region: Region, projection: Projection, split: Split, column: bool) -> str:
    atoms = f"{region.atoms} groups of features" if max(split.pieces) > 1 else f"{region.atoms} features"
    if not column:
        return f"reads the {atoms} of {', '.join(region.members)}"
    if not region.consumers:
        return f"{atoms} that nothing joins: a head, its loss is computed by shares or its output gathered"
    others = [name for name in region.members if name != projection.module]
    fused = f", {len(split.pieces)} fused" if len(split.pieces) > 1 else ""
    together = f", together with {', '.join(others)}" if others else ""
    return f"{atoms} that never meet before {', '.join(region.consumers)}{fused}{together}"


def _embeddings(
    model: nn.Module, findings: Findings, planned: dict[str, ModulePlan], named: dict[str, str], degree: int, large: int
) -> Iterator[tuple[str, ModulePlan]]:
    heads = {plan.weight[0]: plan for plan in planned.values() if plan.weight is not None}
    whole = {p.weight for p in findings.projections.values()} - heads.keys() | findings.elsewhere
    for name, weight in findings.embeddings.items():
        module = model.get_submodule(name)
        rows, width = model.get_parameter(weight).shape
        unusual = getattr(module, "max_norm", None) is not None or getattr(module, "scale_grad_by_freq", False)
        if weight in heads:
            split, why = heads[weight].split, f"its weight is the one of {heads[weight].module}, which is split"
        elif weight in whole or unusual or rows < degree:
            continue
        elif named.get(name) == Style.VOCABULARY:
            split, why = evenly(rows, degree), "the model's tp_plan says so"
        elif rows * width >= large:
            split, why = evenly(rows, degree), f"{rows} rows of {width} are many"
        else:
            continue
        yield name, ModulePlan(module=name, style=Style.VOCABULARY, why=why, split=split, weight=(weight, 0))


def _on_sequence(findings: Findings, regions: list[Region]) -> Iterator[tuple[str, ModulePlan]]:
    """Modules that read the sum of what row projections put out, of which each worker has a part of the sequence."""
    rows = [findings.projections[name] for region in regions if not region.refused for name in region.consumers]
    summed = {int(findings.atoms[row.first_label]) for row in rows}
    taken = findings.projections.keys() | findings.embeddings.keys()
    for name, labels in findings.reads.items():
        if name not in taken and labels and {int(findings.atoms[label]) for label in labels} <= summed:
            why = "reads what row projections put out, by parts of the sequence"
            yield name, ModulePlan(module=name, style=Style.SEQUENCE, why=why)


def _reason(findings: Findings, regions: list[Region], name: str, named: dict[str, str]) -> str:
    """Why a module stays whole."""
    wish = f"; the model's tp_plan says {named[name]}" if name in named else ""
    for region in regions:
        if name in region.names:
            return region.refused + wish
    if name in findings.embeddings:
        return "an embedding too small to be worth an all-reduce" + wish
    return "no projection" + wish
