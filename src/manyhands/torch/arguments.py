"""The arguments of PyTorch's calls: lists, lists of lists and options, read and checked.

What does not fit is refused before anything is sent, so that the ranks stay in step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from manyhands.torch.buffers import SIGNED
from manyhands.torch.errors import ArgumentError

Tensors = Tensor | Sequence[Tensor]

REDUCE_OPS: dict[dist.ReduceOp.RedOpType, str] = {
    dist.ReduceOp.SUM: "sum",
    dist.ReduceOp.AVG: "avg",
    dist.ReduceOp.MIN: "min",
    dist.ReduceOp.MAX: "max",
    dist.ReduceOp.PRODUCT: "prod",
}

OF_BOOLEANS = {"sum": "max", "max": "max", "prod": "min", "min": "min"}
"""A sum of booleans is a logical or, a product a logical and: as bytes, the larger and the smaller one."""


def several(tensors: Tensors) -> list[Tensor]:
    return [tensors] if isinstance(tensors, Tensor) else list(tensors)


def nested(tensors: Sequence[Any]) -> list[list[Tensor]]:
    """PyTorch has a list for each of a process's devices; a plain list is meant for one."""
    if not tensors or isinstance(tensors[0], Tensor):
        return [list(tensors)]
    return [list(inner) for inner in tensors]


def same_size(tensors: Sequence[Tensor]) -> bool:
    return len({tensor.numel() for tensor in tensors}) == 1


def rows(title: str, tensor: Tensor, buffer: Tensor, sizes: Sequence[int], world: int) -> list[Tensor]:
    """The buffer cut into one part for each rank; sizes count the tensor's rows, none means equal parts."""
    length = tensor.size(0) if tensor.dim() else 1
    if not sizes:
        if length % world:
            raise ArgumentError(f"{title}: {length} rows do not divide among {world} ranks. Give the split sizes.")
        sizes = [length // world] * world
    if len(sizes) != world or sum(sizes) != length:
        raise ArgumentError(
            f"{title}: split sizes {list(sizes)} must be one for each of {world} ranks and add up to {length} rows."
        )
    row = buffer.numel() // length if length else 0
    return list(buffer.split([size * row for size in sizes]))


def check_dense(title: str, tensors: Sequence[Tensor]) -> None:
    for tensor in tensors:
        if tensor.layout != torch.strided or tensor.is_quantized:
            raise ArgumentError(f"{title}: takes dense tensors, not {tensor.layout} {tensor.dtype}. Call to_dense().")


def check_sparse(title: str, tensor: Tensor, op: str) -> None:
    if tensor.layout != torch.sparse_coo or op not in ("sum", "avg"):
        raise ArgumentError(
            f"{title}: of sparse tensors only SUM and AVG of layout torch.sparse_coo are supported, not {op} of "
            f"{tensor.layout}. Call to_dense()."
        )


def check_same_dtype(title: str, tensors: Sequence[Tensor]) -> None:
    dtypes = {tensor.dtype for tensor in tensors}
    if len(dtypes) > 1:
        names = " and ".join(sorted(map(str, dtypes)))
        raise ArgumentError(f"{title}: takes tensors of one dtype, was given {names}.")


def reduce_op(title: str, op: object, tensor: Tensor) -> str:
    """The transport's name of a reduction, given itself or in PyTorch's options, over tensors like this one.

    Raises:
        ArgumentError: there is no such reduction, or not for this dtype.
    """
    op = getattr(op, "reduceOp", op)
    known = [name for torch_op, name in REDUCE_OPS.items() if op == torch_op]
    op = getattr(op, "op", op)  # has a name to print
    if not known:
        raise ArgumentError(f"{title}: {op} is not supported. Use SUM, AVG, MIN, MAX or PRODUCT.")
    name, dtype = known[0], tensor.dtype
    refused = ""
    if dtype == torch.bool:
        refused, name = ("" if name in OF_BOOLEANS else "Cast to float."), OF_BOOLEANS.get(name, name)
    elif dtype.is_complex:
        refused = "" if name in ("sum", "avg") else "Only SUM and AVG of complex numbers are defined."
    elif dtype in SIGNED:
        refused = "" if name in ("sum", "prod") else f"Cast to {torch.int64}."
    elif dtype.is_floating_point:
        refused = f"Cast to {torch.bfloat16}." if dtype.itemsize == 1 else ""
    elif name == "avg":
        refused = "The mean of integers is not an integer: use SUM and divide, or cast to float."
    if refused:
        raise ArgumentError(f"{title}: {op} of {dtype} tensors is not supported. {refused}")
    return name


def check_root(title: str, world: int, opts: Any) -> int:
    """The root that the options name, or that they are."""
    root = getattr(opts, "rootRank", opts)
    if not 0 <= root < world:
        raise ArgumentError(f"{title}: invalid root rank {root}: ranks of the group are 0 to {world - 1}.")
    return root


def check_fit(title: str, world: int, whole: Tensor, part: Tensor) -> None:
    """Check that the whole has room for a part of each rank."""
    check_dense(title, [whole, part])
    check_same_dtype(title, [whole, part])
    if whole.numel() != world * part.numel():
        raise ArgumentError(
            f"{title}: the larger tensor must have {world} times (the group's size) the elements of the smaller one; "
            f"they have {whole.numel()} and {part.numel()}."
        )


def check_parts(title: str, world: int, rank: int, parts: Sequence[Tensor], own: Tensor) -> None:
    """Check that there is a part for each rank, and that this rank's is as large as its own tensor."""
    check_dense(title, [*parts, own])
    check_same_dtype(title, [*parts, own])
    if len(parts) != world:
        raise ArgumentError(f"{title}: needs one tensor for each of {world} ranks, was given {len(parts)}.")
    if parts[rank].numel() != own.numel():
        raise ArgumentError(
            f"{title}: this rank's entry in the list has {parts[rank].numel()} elements, its own tensor "
            f"{own.numel()}. They must be of one size."
        )
