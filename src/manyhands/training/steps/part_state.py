"""The state of a split run, as one worker would have it: what any layout saves, any other can take up.

Weights and buffers are the placed model's affair (parallel/state.py); here is what the optimizer and the schedule add.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from manyhands.parallel.parts import Placed
from manyhands.parallel.state import PartState, collect, expected_forms, part_state, put_together, take_weights
from manyhands.state import check_same_state


def gather(placed: Placed, optimizer: Optimizer, scheduler: LRScheduler | None, step: int) -> dict[str, Any]:
    """The whole state on rank 0, in the form of `manyhands.state.capture`; elsewhere only the step. Collective."""
    part = part_state(placed)._asdict()
    found = collect(placed.mesh, part | {"optimizer": _optimizer_part(placed, optimizer)})
    if not found:
        return {"step": step}
    state = {index: entry for part in found for index, entry in part["optimizer"].items()}
    weights = put_together(placed, [PartState(part["parameters"], part["buffers"]) for part in found])
    return {
        "step": step,
        **weights,
        "optimizer": {
            "state": dict(sorted(state.items())),
            "param_groups": optimizer.state_dict()["param_groups"],
        },
        "scheduler": scheduler.state_dict() if scheduler is not None else None,
    }


def take(placed: Placed, optimizer: Optimizer, scheduler: LRScheduler | None, saved: Mapping[str, Any]) -> int:
    """Put this worker's part of a whole state in its place; returns the step.

    Raises:
        UserError: the state is another model's.
    """
    check_same_state(saved, expected_forms(placed), optimizer)
    take_weights(placed, saved)
    optimizer.load_state_dict({"state": {}, "param_groups": saved["optimizer"]["param_groups"]})
    index = _indices(placed, optimizer)
    for name in placed.owned:  # the optimizer need not have been given all of them
        if index.get(name) in saved["optimizer"]["state"]:
            entry = saved["optimizer"]["state"][index[name]]
            shape = placed.names.shapes[name]
            optimizer.state[placed.handles[name]] = {key: _mine(placed, name, shape, v) for key, v in entry.items()}
    if scheduler is not None and saved["scheduler"] is not None:
        scheduler.load_state_dict(saved["scheduler"])
    return saved["step"]


def give_to(optimizer: Optimizer, before: Mapping[Tensor, str], handles: Mapping[str, torch.nn.Parameter]) -> None:
    """Have the optimizer, which was made for the whole model's parameters, work on the handles.

    Args:
        before: the names of the parameters for which it was made.
    """
    for group in optimizer.param_groups:
        group["params"] = [handles[before[param]] for param in group["params"]]


def _optimizer_part(placed: Placed, optimizer: Optimizer) -> dict[int, Any]:
    """The optimizer's state for what this worker's stages own, whole: peers that divide it must call this together."""
    index = _indices(placed, optimizer)
    found = {}
    for name in placed.owned:  # the same order on all that divide it
        handle = placed.handles[name]
        state = dict(optimizer.state.get(handle, {}))
        for key, value in state.items():
            if isinstance(value, Tensor) and name in placed.divided and value.shape == handle.shape and value.ndim:
                state[key] = placed.together(name, value)
        if placed.keeps(name) and state:
            found[index[name]] = state
    return found


def _indices(placed: Placed, optimizer: Optimizer) -> dict[str, int]:
    """The number that the optimizer's state dict gives to each parameter."""
    params = [param for group in optimizer.param_groups for param in group["params"]]
    number = {id(param): index for index, param in enumerate(params)}
    return {name: number[id(handle)] for name, handle in placed.handles.items() if id(handle) in number}


def _mine(placed: Placed, name: str, shape: torch.Size, value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return placed.mine(name, value).clone() if value.shape == shape and value.ndim else value.clone()
