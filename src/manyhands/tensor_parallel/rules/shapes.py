"""Functions that move elements and do not change them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from manyhands.tensor_parallel.exchange import take
from manyhands.tensor_parallel.split import Split, relocate
from manyhands.tensor_parallel.tensor import NoRule, SplitTensor, rule, splits_of


def viewed(tensor: SplitTensor, shape: Any) -> SplitTensor:
    """The tensor in another shape; one size may be -1."""
    shape = [int(size) for size in shape]
    if -1 in shape:
        shape[shape.index(-1)] = math.prod(tensor.sizes) // max(1, math.prod(size for size in shape if size != -1))
    found = relocate(tensor.sizes, tensor.axis, tensor.shares, tuple(shape))
    if found is None:
        raise NoRule
    dim, split = found
    shape[dim] = split.local_size(tensor.peers.rank)
    return tensor.like(tensor.local.reshape(shape), dim, split)


def _sizes(args: tuple[Any, ...], kwargs: dict[str, Any], key: str) -> Any:
    if key in kwargs:
        return kwargs[key]
    return args[0] if len(args) == 1 and isinstance(args[0], tuple | list) else args


@rule("view", "reshape")
def view(func: Callable[..., Any], tensor: SplitTensor, *args: Any, **kwargs: Any) -> Any:
    if args and isinstance(args[0], torch.dtype):
        raise NoRule
    return viewed(tensor, _sizes(args, kwargs, "shape" if "shape" in kwargs else "size"))


@rule("view_as", "reshape_as", "expand_as")
def as_other(func: Callable[..., Any], tensor: Tensor, other: Tensor) -> Any:
    return tensor.expand(other.shape) if func.__name__ == "expand_as" else tensor.reshape(other.shape)


@rule("flatten")
def flatten(func: Callable[..., Any], tensor: SplitTensor, start_dim: int = 0, end_dim: int = -1) -> Any:
    start, end = start_dim % tensor.local.ndim, end_dim % tensor.local.ndim
    return viewed(tensor, [*tensor.sizes[:start], -1, *tensor.sizes[end + 1 :]])


@rule("unflatten")
def unflatten(func: Callable[..., Any], tensor: SplitTensor, dim: int, sizes: Any) -> Any:
    dim, sizes = dim % tensor.local.ndim, list(sizes)
    if -1 in sizes:
        sizes[sizes.index(-1)] = tensor.sizes[dim] // math.prod(size for size in sizes if size != -1)
    return viewed(tensor, [*tensor.sizes[:dim], *sizes, *tensor.sizes[dim + 1 :]])


@rule("permute")
def permute(func: Callable[..., Any], tensor: SplitTensor, *args: Any, **kwargs: Any) -> Any:
    dims = [dim % tensor.local.ndim for dim in _sizes(args, kwargs, "dims")]
    return tensor.like(tensor.local.permute(dims), dims.index(tensor.axis))


@rule("transpose", "swapaxes", "swapdims")
def transpose(func: Callable[..., Any], tensor: SplitTensor, dim0: int, dim1: int) -> Any:
    dim0, dim1 = dim0 % tensor.local.ndim, dim1 % tensor.local.ndim
    return tensor.like(tensor.local.transpose(dim0, dim1), {dim0: dim1, dim1: dim0}.get(tensor.axis, tensor.axis))


@rule("movedim", "moveaxis", "t", "adjoint")
def reorder(func: Callable[..., Any], tensor: SplitTensor, *args: Any, **kwargs: Any) -> Any:
    """Reorder dimensions. The function itself says how, on a tensor without elements whose sizes are their numbers."""
    numbers = torch.empty(tuple(range(tensor.local.ndim)), device="meta")
    order = list(func(numbers, *args, **kwargs).shape)
    return tensor.like(tensor.local.permute(order), order.index(tensor.axis))


@rule("unsqueeze")
def unsqueeze(func: Callable[..., Any], tensor: SplitTensor, dim: int) -> Any:
    dim = dim % (tensor.local.ndim + 1)
    return tensor.like(tensor.local.unsqueeze(dim), tensor.axis + (dim <= tensor.axis))


@rule("squeeze")
def squeeze(func: Callable[..., Any], tensor: SplitTensor, dim: Any = None) -> Any:
    given = range(tensor.local.ndim) if dim is None else [dim] if isinstance(dim, int) else dim
    gone = [d % tensor.local.ndim for d in given if tensor.sizes[d] == 1 and d % tensor.local.ndim != tensor.axis]
    return tensor.like(tensor.local.squeeze(tuple(gone)), tensor.axis - sum(d < tensor.axis for d in gone))


@rule("expand", "broadcast_to")
def expand(func: Callable[..., Any], tensor: SplitTensor, *args: Any, **kwargs: Any) -> Any:
    sizes = list(_sizes(args, kwargs, "size"))
    dim = tensor.axis + len(sizes) - tensor.local.ndim
    if sizes[dim] not in (-1, tensor.shares.size):
        raise NoRule
    sizes[dim] = -1
    return tensor.like(tensor.local.expand(sizes), dim)


@rule("repeat")
def repeat(func: Callable[..., Any], tensor: SplitTensor, *args: Any, **kwargs: Any) -> Any:
    times = _sizes(args, kwargs, "repeats")
    dim = tensor.axis + len(times) - tensor.local.ndim
    split = Split(tensor.shares.counts, tensor.shares.pieces * times[dim])
    return tensor.like(tensor.local.repeat(times), dim, split)


@rule("repeat_interleave")
def repeat_interleave(
    func: Callable[..., Any], tensor: SplitTensor, repeats: Any, dim: Any = None, **kwargs: Any
) -> Any:
    if not isinstance(repeats, int) or dim is None or kwargs:
        raise NoRule
    split = tensor.shares
    if dim % tensor.local.ndim == tensor.axis:
        split = Split(split.counts, tuple(piece * repeats for piece in split.pieces))
    return tensor.like(tensor.local.repeat_interleave(repeats, dim), split=split)


@rule("__getitem__")
def index(func: Callable[..., Any], tensor: Any, key: Any) -> Any:
    if not isinstance(tensor, SplitTensor):
        raise NoRule
    keys = list(key) if isinstance(key, tuple) else [key]
    if any(not (k is None or k is Ellipsis or isinstance(k, slice) or type(k) is int) for k in keys):
        raise NoRule
    missing = tensor.local.ndim - sum(k is not None and k is not Ellipsis for k in keys)
    place = keys.index(Ellipsis) if Ellipsis in keys else len(keys)
    keys[place : place + 1] = [slice(None)] * missing
    split, found, old, new = tensor.shares, 0, 0, 0
    for position, k in enumerate(keys):
        if k is not None and old == tensor.axis:
            split, keys[position], found = *_slice(tensor, k), new
        old += k is not None
        new += type(k) is not int
    return tensor.like(tensor.local[tuple(keys)], found, split)


def _slice(tensor: SplitTensor, key: Any) -> tuple[Split, slice]:
    """A slice of the split dimension that takes whole pieces."""
    if not isinstance(key, slice):
        raise NoRule
    start, stop, step = key.indices(tensor.shares.size)
    found = tensor.shares.select(start, stop) if step == 1 else None
    if found is None:
        raise NoRule
    split, first, last = found
    count = tensor.shares.counts[tensor.peers.rank]
    return split, slice(count * sum(tensor.shares.pieces[:first]), count * sum(tensor.shares.pieces[:last]))


@rule("split", "chunk", "split_with_sizes", "tensor_split")
def divide(func: Callable[..., Any], tensor: SplitTensor, *args: Any, **kwargs: Any) -> Any:
    """Divide a tensor. The function itself says where it cuts, on a tensor without memory."""
    parts = func(torch.empty(tensor.sizes, device="meta"), *args, **kwargs)
    dim = next((d for d in range(tensor.local.ndim) if parts[0].shape[d] != tensor.sizes[d]), None)
    if dim is None:
        raise NoRule
    start, found = 0, []
    for part in parts:
        key = [slice(None)] * tensor.local.ndim
        key[dim] = slice(start, start + part.shape[dim])
        found.append(index(Tensor.__getitem__, tensor, tuple(key)))
        start += part.shape[dim]
    return tuple(found)


@rule("glu")
def gated(func: Callable[..., Any], tensor: SplitTensor, dim: int = -1) -> Any:
    value, gate = tensor.chunk(2, dim)
    return value * gate.sigmoid()


@rule("unbind", "__iter__")
def unbind(func: Callable[..., Any], tensor: SplitTensor, dim: int = 0) -> Any:
    dim = dim % tensor.local.ndim
    if dim == tensor.axis:
        raise NoRule
    parts = tuple(tensor.like(part, tensor.axis - (dim < tensor.axis)) for part in tensor.local.unbind(dim))
    return iter(parts) if func.__name__ == "__iter__" else parts


@rule("cat", "concat", "concatenate", "stack")
def join(func: Callable[..., Any], tensors: Any, dim: int = 0, **kwargs: Any) -> Any:
    leader = next(splits_of(tensors))
    stacked = func.__name__ == "stack"
    tensors = [t for t in tensors if stacked or t.shape != (0,)]  # caches begin as empty tensors of one dimension
    dim = dim % (leader.local.ndim + stacked)
    here = stacked or dim != leader.axis
    if kwargs or (any(not isinstance(t, SplitTensor) for t in tensors) and not here):
        raise NoRule
    parts, pieces = [], ()
    for tensor in tensors:
        if isinstance(tensor, SplitTensor):
            if tensor.axis != leader.axis or tensor.shares.counts != leader.shares.counts:
                raise NoRule
            if here and tensor.shares != leader.shares:
                raise NoRule
            pieces += tensor.shares.pieces
            parts.append(tensor.local)
        else:
            parts.append(take(leader.peers.enter(tensor), leader.axis, leader.shares, leader.peers.rank))
    if here:
        return leader.like(func(parts, dim), leader.axis + (stacked and dim <= leader.axis))
    counts = leader.shares.counts
    return leader.like(torch.cat(parts, dim), split=Split(counts, pieces))
