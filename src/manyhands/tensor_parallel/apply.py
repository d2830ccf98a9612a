"""Carry a plan out on a model, in place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import torch
from torch import nn
from torch.distributed import DeviceMesh

import manyhands.tensor_parallel.rules  # noqa: F401  registers what torch functions do to split tensors
from manyhands.errors import UsageError, UserError
from manyhands.tensor_parallel.exchange import Peers
from manyhands.tensor_parallel.layers import Column, Row, Vocabulary
from manyhands.tensor_parallel.plan import ModulePlan, Style, TensorPlan
from manyhands.tensor_parallel.values import Placement, is_split, place

_groups: WeakSet[Peers] = WeakSet()


def apply(model: nn.Module, plan: TensorPlan, mesh: DeviceMesh) -> None:
    """Split the model over the workers of a one-dimensional mesh.

    Parameters stay the same objects with the same names, so ties and an optimizer built before remain; split ones hold
    this worker's share afterwards (`values.py`). Modules that are split compute differently, all others as before.

    Raises:
        UsageError: the mesh has another size than the plan.
    """
    if mesh.ndim != 1 or mesh.size() != plan.degree:
        raise UsageError(f"the plan is for a tensor group of {plan.degree}; the mesh is {tuple(mesh.mesh.shape)}.")
    if plan.degree == 1:
        return
    peers = Peers(mesh.get_group())
    _groups.add(peers)
    splits = plan.parameters
    for name, parameter in model.named_parameters():
        dim, split = splits.get(name, (0, None))
        place(parameter, Placement(peers, dim, split))
    for planned in plan.modules:
        module = model.get_submodule(planned.module)
        layer = _layer(module, planned, peers, plan.sequence)
        if not planned.called and any(is_split(parameter) for parameter in module.parameters(recurse=False)):
            layer = _never_seen(planned.module)
        if layer is not None:
            module.forward = layer  # type: ignore[method-assign]
    if splits:
        torch.backends.mha.set_fastpath_enabled(False)  # it would read the weights past their modules


def _never_seen(name: str) -> Any:
    def forward(*args: Any, **kwargs: Any) -> Any:
        raise UserError(
            f"{name} was called in training but not in the example that its split was derived from, and it shares a "
            "weight that is split. Give an example that calls it, or use tp=1."
        )

    return forward


def _layer(module: nn.Module, planned: ModulePlan, peers: Peers, sequence: bool) -> Any:
    if planned.split is None or planned.weight is None:
        return None
    if planned.style == Style.VOCABULARY:
        return Vocabulary(module, planned.split, peers)
    if planned.style == Style.COLUMN:
        return Column(module, planned.split, peers, transposed=planned.weight[1] == 1)
    return Row(module, planned.split, peers, transposed=planned.weight[1] == 0, sequence=sequence)


@contextmanager
def context() -> Iterator[None]:
    """A context around forward, loss and backward of a micro-batch: its end lets go of tensors remembered for it."""
    try:
        yield
    finally:
        for peers in _groups:
            peers.forget()
