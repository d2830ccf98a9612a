"""Functions of single elements, and reductions along dimensions that are not split."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from manyhands.tensor_parallel.exchange import take
from manyhands.tensor_parallel.tensor import NoRule, SplitTensor, rule, rule_finder, share_of, splits_of

# fmt: off
_UNARY = (
    "float", "double", "half", "bfloat16", "bool", "int", "long", "contiguous", "clone", "detach", "zeros_like",
    "ones_like", "hardswish", "requires_grad_", "cuda", "cpu",
)
# fmt: on
_ALIASES = {
    name: base
    for base, names in {
        "add": "iadd radd",
        "sub": "isub subtract",
        "mul": "imul rmul multiply",
        "div": "truediv rtruediv itruediv rdiv idiv divide",
        "pow": "ipow rpow",
        "bitwise_and": "and iand rand",
        "bitwise_or": "or ior ror",
        "bitwise_xor": "xor ixor rxor",
        "bitwise_not": "invert",
        "floor_divide": "floordiv rfloordiv ifloordiv",
        "remainder": "mod imod",
        "log_sigmoid_forward": "logsigmoid",
    }.items()
    for name in names.split()
}
"""Names of methods and functions -> names of torch's operators."""


@rule(*_UNARY)
def unary(func: Callable[..., Any], tensor: SplitTensor, *args: Any, **kwargs: Any) -> Any:
    return tensor.like(func(tensor.local, *args, **kwargs))


def elementwise(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Any function of corresponding elements, with broadcasting."""
    if kwargs.get("out") is not None:
        raise NoRule
    operands = [*args, *kwargs.values()]
    leader = max(splits_of(operands), key=lambda split: -split.from_end)
    from_end, split = leader.from_end, leader.shares
    if any(
        s.from_end != from_end and s.local.ndim >= -from_end and s.sizes[from_end] == 1 for s in splits_of(operands)
    ):
        raise NoRule
    target = args[0] if args else None
    in_place = _in_place(func.__name__)
    if in_place and not (isinstance(target, SplitTensor) and target.from_end == from_end and target.shares == split):
        raise NoRule
    local = func(
        *(share_of(value, leader, from_end, split) for value in args),
        **{key: share_of(value, leader, from_end, split) for key, value in kwargs.items()},
    )
    if in_place and isinstance(target, SplitTensor):
        target.local = local
        return target
    return leader.like(local, local.ndim + from_end)


def _in_place(name: str) -> bool:
    if name.startswith("__"):
        return name.startswith("__i") and name.strip("_") in _ALIASES
    return name.endswith("_")


def is_elementwise(name: str) -> bool:
    """Whether torch marks its operators of that name as pointwise, without dimensions and random numbers."""
    name = name.strip("_")
    packet = getattr(torch.ops.aten, _ALIASES.get(name, name), None)
    overloads = [getattr(packet, overload) for overload in packet.overloads()] if packet is not None else []
    if any(argument.name == "dim" for overload in overloads for argument in overload._schema.arguments):
        return False
    tags = [overload.tags for overload in overloads]
    return any(torch.Tag.pointwise in t for t in tags) and not any(torch.Tag.nondeterministic_seeded in t for t in tags)


rule_finder(lambda name: elementwise if is_elementwise(name) else None)


@rule("where")
def where(func: Callable[..., Any], *args: Any) -> Any:
    if len(args) != 3:
        raise NoRule
    return elementwise(func, *args)


@rule("to", "type_as")
def convert(func: Callable[..., Any], tensor: Any, *args: Any, **kwargs: Any) -> Any:
    args = tuple(value.local if isinstance(value, SplitTensor) else value for value in args)
    if not isinstance(tensor, SplitTensor):
        return func(tensor, *args, **kwargs)
    return tensor.like(func(tensor.local, *args, **kwargs))


@rule("softmax", "log_softmax", "softmin")
def along(func: Callable[..., Any], tensor: SplitTensor, dim: int | None = None, *args: Any, **kwargs: Any) -> Any:
    if dim is None or dim % tensor.local.ndim == tensor.axis:
        raise NoRule
    return tensor.like(func(tensor.local, dim, *args, **kwargs))


@rule("sum", "mean", "amax", "amin", "var", "std", "norm", "logsumexp", "prod")
def reduction(func: Callable[..., Any], tensor: SplitTensor, *args: Any, **kwargs: Any) -> Any:
    if func.__name__ == "norm" and "dim" not in kwargs:
        raise NoRule
    dims = kwargs["dim"] if "dim" in kwargs else args[0] if args else None
    given = (dims,) if isinstance(dims, int) else dims
    if not isinstance(given, tuple | list) or isinstance(dims, bool):
        raise NoRule
    given = [dim % tensor.local.ndim for dim in given]
    if not given or tensor.axis in given:
        raise NoRule
    local = func(tensor.local, *args, **kwargs)
    return tensor.like(local, tensor.axis - (local.ndim < tensor.local.ndim) * sum(dim < tensor.axis for dim in given))


@rule("layer_norm", "rms_norm")
def normalise(func: Callable[..., Any], tensor: Any, shape: Any, *args: Any, **kwargs: Any) -> Any:
    """Normalise over the last dimensions, none of them split."""
    if not isinstance(tensor, SplitTensor) or tensor.axis >= tensor.local.ndim - len(shape):
        raise NoRule
    peers = tensor.peers
    args = tuple(peers.enter(value) if isinstance(value, Tensor) else value for value in args)
    kwargs = {key: peers.enter(value) if isinstance(value, Tensor) else value for key, value in kwargs.items()}
    return tensor.like(func(tensor.local, shape, *args, **kwargs))


@rule("dropout", "dropout_")
def dropout(
    func: Callable[..., Any], tensor: SplitTensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Any:
    """The mask of the whole tensor is drawn, then this worker's part of it is used."""
    if not training or p == 0.0:
        return tensor
    local = tensor.local * whole_mask(tensor, p)
    if not inplace:
        return tensor.like(local)
    tensor.local = local
    return tensor


def whole_mask(tensor: SplitTensor, p: float) -> Tensor:
    """This worker's share of the factors by which dropout multiplies the whole tensor.

    The generator fills memory in its order, so the mask has the order of dimensions that the whole tensor would have.
    A dimension of which this worker has one element has the stride of the next outer one, so it comes after that.
    """
    sizes, strides = tensor.local.shape, tensor.local.stride()
    order = sorted(range(len(sizes)), key=lambda dim: (-strides[dim], sizes[dim] == 1, dim))
    ones = torch.empty_permuted(tensor.sizes, order, dtype=tensor.dtype, device=tensor.device).fill_(1)
    with torch.no_grad():
        mask = F.dropout(ones, p, training=True)
    return take(mask, tensor.axis, tensor.shares, tensor.peers.rank)
