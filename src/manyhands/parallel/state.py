"""A placed model's weights and buffers, as one worker would have them: what any layout gives, any other can take.

To give them, each part's workers put its parameters together, and rank 0 collects the parts. To take them, every worker
looks at all of them and takes what is its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from manyhands.parallel.mesh import Mesh
from manyhands.parallel.parts import Placed
from manyhands.state.gather import pack, unpack


class PartState(NamedTuple):
    """What one worker's stages own, whole."""

    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]


def part_state(placed: Placed) -> PartState:
    """What this worker's stages own, whole: peers that divide it must call this together. Only one of those that have
    the same gives parameters."""
    parameters = {}
    for name in placed.owned:  # the same order on all that divide it
        value = placed.handles[name].detach()
        if name in placed.divided:
            value = placed.together(name, value)
        if placed.keeps(name):
            parameters[name] = value
    buffers = dict(placed.model.named_buffers())
    return PartState(parameters, {name: buffers[name] for part in placed.parts for name in part.buffers})


def put_together(placed: Placed, parts: Sequence[PartState]) -> dict[str, dict[str, Tensor]]:
    """`model` and `buffers` of what all workers gave, as `manyhands.state.capture` has them; on rank 0."""
    names = placed.names
    values = {name: value for part in parts for name, value in part.parameters.items()}
    buffers = dict(placed.model.named_buffers()) | {n: b for part in parts for n, b in part.buffers.items()}
    model = {name: values[names.canonical[name]] if name in names.canonical else buffers[name] for name in names.state}
    return {"model": model, "buffers": {name: buffer for name, buffer in buffers.items() if name not in model}}


def gather_weights(placed: Placed) -> dict[str, dict[str, Tensor]] | None:
    """`model` and `buffers` of the whole model, on rank 0. All workers call it."""
    found = collect(placed.mesh, part_state(placed)._asdict())
    return put_together(placed, [PartState(**part) for part in found]) if found else None


def take_weights(placed: Placed, saved: Mapping[str, Any]) -> None:
    """Put this worker's part of `model` and `buffers` in its place."""
    with torch.no_grad():
        for name in placed.owned:
            placed.handles[name].copy_(placed.mine(name, saved["model"][name]))
        for name, buffer in placed.model.named_buffers():
            buffer.copy_(saved["model"][name] if name in saved["model"] else saved["buffers"][name])


def expected_forms(placed: Placed) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """The shape and dtype that every weight and buffer of the whole model has, by name."""
    names = placed.names
    forms = {name: (names.shapes[first], names.dtypes[first]) for name, first in names.canonical.items()}
    return forms | {name: (buffer.shape, buffer.dtype) for name, buffer in placed.model.named_buffers()}


def collect(mesh: Mesh, tree: dict[str, Any]) -> list[dict[str, Any]]:
    """Gather on rank 0 the trees of all workers that speak for their part of the model, rank 0's first; none elsewhere.

    Raises:
        GroupError: a worker was lost.
    """
    gang = mesh.gang
    raw = pack(tree) if mesh.speaks and mesh.rank else torch.empty(0, dtype=torch.uint8)
    sizes = [int(text) for text in gang.all_gather_bytes(str(raw.numel()).encode())]
    if mesh.rank:
        if raw.numel():
            gang.send(raw, 0).result()
        return []
    found = [tree]
    for rank, size in enumerate(sizes):
        if size:
            received = torch.empty(size, dtype=torch.uint8)
            gang.receive(received, rank).result()
            found.append(unpack(received))
    return found
