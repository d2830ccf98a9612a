"""The state of a split run, as one worker would have it: what any layout saves, any other can take up.

To save, each part's workers put its parameters and optimizer state together, and rank 0 collects the parts. To
restore, every worker looks at the whole state (all workers of a machine can map it) and takes what is its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from manyhands.parallel.mesh import Mesh
from manyhands.parallel.parts import Built
from manyhands.state import Image, check_same_state, read_image

if TYPE_CHECKING:
    from manyhands.train.split.trainer import SplitTrainer


def gather(trainer: SplitTrainer, mesh: Mesh, built: Built) -> dict[str, Any]:
    """The whole state on rank 0, in the form of `manyhands.state.capture`; elsewhere only the step."""
    part = _part(trainer, built)
    if mesh.rank:
        if mesh.speaks:
            _send(mesh, part)
        else:
            _announce(mesh, 0)
        return {"step": trainer.step}
    parts = [part, *_receive(mesh)]
    names, optimizer = trainer.names, trainer.optimizer.state_dict()
    values = {name: value for p in parts for name, value in p["parameters"].items()}
    buffers = dict(trainer.model.named_buffers()) | {n: b for p in parts for n, b in p["buffers"].items()}
    model = {name: values[names.canonical[name]] if name in names.canonical else buffers[name] for name in names.state}
    state = {index: entry for p in parts for index, entry in p["optimizer"].items()}
    return {
        "step": trainer.step,
        "model": model,
        "buffers": {name: buffer for name, buffer in buffers.items() if name not in model},
        "optimizer": {"state": dict(sorted(state.items())), "param_groups": optimizer["param_groups"]},
        "scheduler": trainer.scheduler.state_dict() if trainer.scheduler is not None else None,
    }


def take(trainer: SplitTrainer, built: Built, saved: Mapping[str, Any]) -> int:
    """Put this worker's part of a whole state in its place; returns the step.

    Raises:
        UserError: the state is another model's.
    """
    names, optimizer = trainer.names, trainer.optimizer
    expected = {name: (names.shapes[first], names.dtypes[first]) for name, first in names.canonical.items()}
    buffers = dict(trainer.model.named_buffers())
    check_same_state(saved, expected | {name: (b.shape, b.dtype) for name, b in buffers.items()}, optimizer)
    with torch.no_grad():
        for name, handle in built.handles.items():
            if name in built.owned:
                handle.copy_(built.mine(name, saved["model"][name]))
        for name, buffer in buffers.items():
            buffer.copy_(saved["model"][name] if name in saved["model"] else saved["buffers"][name])
    optimizer.load_state_dict({"state": {}, "param_groups": saved["optimizer"]["param_groups"]})
    index = _indices(trainer)
    for name in built.owned:
        if index[name] in saved["optimizer"]["state"]:
            entry = saved["optimizer"]["state"][index[name]]
            shape = names.shapes[name]
            optimizer.state[built.handles[name]] = {key: _mine(built, name, shape, v) for key, v in entry.items()}
    if trainer.scheduler is not None and saved["scheduler"] is not None:
        trainer.scheduler.load_state_dict(saved["scheduler"])
    return saved["step"]


def _part(trainer: SplitTrainer, built: Built) -> dict[str, Any]:
    """What this worker's stages own, whole: peers that divide it must call this together."""
    index = _indices(trainer)
    parameters, optimizer = {}, {}
    for name in built.owned:  # the same order on all that divide it
        handle = built.handles[name]
        shape = handle.shape
        state = dict(trainer.optimizer.state.get(handle, {}))
        for key, value in state.items():
            if isinstance(value, Tensor) and name in built.divided and value.shape == shape and value.ndim:
                state[key] = built.whole(name, value)
        if built.keeps(name):
            parameters[name] = built.whole(name, handle.detach()) if name in built.divided else handle.detach()
            if state:
                optimizer[index[name]] = state
        elif name in built.divided:
            built.whole(name, handle.detach())
    buffers = dict(trainer.model.named_buffers())
    return {
        "parameters": parameters,
        "optimizer": optimizer,
        "buffers": {name: buffers[name] for part in built.parts for name in part.buffers},
    }


def _indices(trainer: SplitTrainer) -> dict[str, int]:
    """The number that the optimizer's state dict gives to each parameter."""
    params = [param for group in trainer.optimizer.param_groups for param in group["params"]]
    number = {id(param): index for index, param in enumerate(params)}
    return {name: number[id(handle)] for name, handle in trainer._handles.items() if id(handle) in number}


def _mine(built: Built, name: str, shape: torch.Size, value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return built.mine(name, value).clone() if value.shape == shape and value.ndim else value.clone()


def _send(mesh: Mesh, part: dict[str, Any]) -> None:
    image = Image(part)
    raw = torch.empty(image.length, dtype=torch.uint8)
    image.write(memoryview(raw.numpy().data))
    _announce(mesh, image.length)
    mesh.gang.send(raw, 0).result()


def _receive(mesh: Mesh) -> list[dict[str, Any]]:
    sizes = _announce(mesh, 0)
    parts = []
    for rank, size in enumerate(sizes):
        if size:
            raw = torch.empty(size, dtype=torch.uint8)
            mesh.gang.receive(raw, rank).result()
            parts.append(read_image(memoryview(raw.numpy().data))[0])
    return parts


def _announce(mesh: Mesh, size: int) -> list[int]:
    return [int(text) for text in mesh.gang.all_gather_bytes(str(size).encode())]
