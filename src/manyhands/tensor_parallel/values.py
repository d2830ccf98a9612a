"""Values of split parameters: whole and shares.

A split parameter is an ordinary parameter that holds this worker's share, under the name and in the place it always
had. What it is a share of is kept beside it. Optimizer moments have the shape of the share, so the same functions serve
them. Plain parameters, rather than DTensors: any optimizer takes a mixture of split and whole ones, and its grouped
kernels do, too; one that couples the elements of a parameter (norms, factors) would see the share only.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from manyhands.tensor_parallel.exchange import Peers, take
from manyhands.tensor_parallel.split import Split
from manyhands.tensor_parallel.tensor import SplitTensor


class Placement(NamedTuple):
    """What a parameter of a split model is."""

    peers: Peers
    dim: int = 0
    split: Split | None = None
    """How the parameter is split; None: it is whole."""


_placements = WeakTensorKeyDictionary()


def place(parameter: nn.Parameter, placement: Placement) -> None:
    """Keep what of the whole parameter this worker has; the parameter stays the same object."""
    _placements[parameter] = placement
    if placement.split is not None:
        with torch.no_grad():
            local = take(parameter, placement.dim, placement.split, placement.peers.rank)
            parameter.data = local.clone(memory_format=torch.contiguous_format)


def placement(parameter: Tensor) -> Placement | None:
    """The placement of a parameter; None: it belongs to no split model."""
    return _placements.get(parameter)


def is_split(parameter: Tensor) -> bool:
    found = placement(parameter)
    return found is not None and found.split is not None


def gather(parameter: Tensor, value: Tensor | None = None) -> Tensor:
    """The one-worker value of a parameter, or of a tensor that goes with it (a gradient, a moment).

    Every worker of the group has to call it, in the same order. Whole values come back as they are.
    """
    value, found = (parameter if value is None else value).detach(), placement(parameter)
    if found is None or found.split is None or value.ndim != parameter.ndim:  # a step counter has no dimensions
        return value
    return found.peers.join(value, found.dim, found.split)


def share(parameter: Tensor, whole: Tensor) -> Tensor:
    """This worker's share of a one-worker value; no communication."""
    found = placement(parameter)
    if found is None or found.split is None or whole.ndim != parameter.ndim:
        return whole
    return take(whole, found.dim, found.split, found.peers.rank)


def scatter_(parameter: Tensor, whole: Tensor) -> None:
    """Set a parameter from its one-worker value; no communication."""
    with torch.no_grad():
        parameter.copy_(share(parameter, whole))


def whole_shape(parameter: Tensor) -> tuple[int, ...]:
    """The shape that a parameter has on one worker."""
    shape, found = list(parameter.shape), placement(parameter)
    if found is not None and found.split is not None:
        shape[found.dim] = found.split.size
    return tuple(shape)


def gradient(parameter: Tensor) -> Tensor | None:
    """This worker's gradient after backward, complete: the share of a split parameter, the whole of a whole one."""
    return parameter.grad


def squared_norm_share(parameter: Tensor) -> Tensor:
    """What this worker adds to the squared norm of the gradient, so that over the group each element counts once."""
    found, grad = placement(parameter), parameter.grad
    if grad is None or (found is not None and found.split is None and found.peers.rank > 0):
        return torch.zeros((), device=parameter.device)
    return (grad.detach() if grad.dtype == torch.float64 else grad.detach().float()).square().sum()


def whole(value: Any) -> Any:
    """A model's output, or any tree of values, with every split tensor gathered."""
    return tree_map(lambda leaf: leaf.whole() if isinstance(leaf, SplitTensor) else leaf, value)
