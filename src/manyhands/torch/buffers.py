"""Tensors as the transport takes them: flat, contiguous, and of a dtype that can be added.

What has another form is copied, and the result is copied home when the operation is over. Booleans travel as bytes,
complex numbers as pairs of reals, wide unsigned integers as signed ones (the same bits, and the same bits when added).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist

from manyhands.torch.errors import ArgumentError

REDUCE_OPS: dict[dist.ReduceOp.RedOpType, str] = {
    dist.ReduceOp.SUM: "sum",
    dist.ReduceOp.AVG: "avg",
    dist.ReduceOp.MIN: "min",
    dist.ReduceOp.MAX: "max",
    dist.ReduceOp.PRODUCT: "prod",
}

OF_BOOLEANS = {"sum": "max", "max": "max", "prod": "min", "min": "min"}
"""A sum of booleans is a logical or, a product a logical and: as bytes, the larger and the smaller one."""

SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}


def check_dense(title: str, tensors: Sequence[torch.Tensor]) -> None:
    for tensor in tensors:
        if tensor.layout != torch.strided or tensor.is_quantized:
            raise ArgumentError(f"{title}: takes dense tensors, not {tensor.layout} {tensor.dtype}. Call to_dense().")


def check_same_dtype(title: str, tensors: Sequence[torch.Tensor]) -> None:
    dtypes = {tensor.dtype for tensor in tensors}
    if len(dtypes) > 1:
        names = " and ".join(sorted(map(str, dtypes)))
        raise ArgumentError(f"{title}: takes tensors of one dtype, was given {names}.")


def reduce_op(title: str, op: object, tensor: torch.Tensor) -> str:
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


def flat(tensor: torch.Tensor) -> torch.Tensor:
    """The elements in one dimension, of a dtype that can travel; the same memory wherever that can be."""
    tensor = tensor.detach().resolve_conj().resolve_neg().contiguous()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    elif tensor.dtype == torch.bool or (tensor.dtype.is_floating_point and tensor.dtype.itemsize == 1):
        tensor = tensor.view(torch.uint8)
    elif tensor.dtype in SIGNED:
        tensor = tensor.view(SIGNED[tensor.dtype])
    return tensor.as_strided((tensor.numel(),), (1,))  # view(-1) keeps a stride of its own for a single element


class Results:
    """Flat buffers for an operation's results, and the way home for those that are copies."""

    def __init__(self) -> None:
        self._copies: list[tuple[torch.Tensor, torch.Tensor]] = []

    def empty(self, tensor: torch.Tensor) -> torch.Tensor:
        """A flat buffer that becomes this tensor's content."""
        home = tensor.detach()
        if in_place(home):
            return flat(home)
        copy = torch.empty(home.shape, dtype=home.dtype, device=home.device)
        self._copies.append((home, copy))
        return flat(copy)

    def filled(self, tensor: torch.Tensor) -> torch.Tensor:
        """The same, with the tensor's content to begin with."""
        buffer = self.empty(tensor)
        if not in_place(tensor):
            buffer.copy_(flat(tensor))
        return buffer

    def pieces(self, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        """One flat buffer that becomes the content of these tensors, one after the other."""
        whole = torch.empty(sum(tensor.numel() for tensor in tensors), dtype=tensors[0].dtype, device=tensors[0].device)
        parts = whole.split([tensor.numel() for tensor in tensors])
        homes = [tensor.detach() for tensor in tensors]
        self._copies += [(home, part.view(home.shape)) for home, part in zip(homes, parts, strict=True)]
        return flat(whole)

    @property
    def finish(self) -> Callable[[], None] | None:
        """What to call when the buffers are filled; None if they are the tensors themselves."""
        if not self._copies:
            return None
        copies = self._copies
        stream = next((torch.cuda.current_stream(home.device) for home, _ in copies if home.is_cuda), None)

        def bring_home() -> None:
            with torch.cuda.stream(stream):  # the caller's stream, so that what it runs next sees the result
                for home, copy in copies:
                    home.copy_(copy)

        return bring_home


def in_place(tensor: torch.Tensor) -> bool:
    return tensor.is_contiguous() and not tensor.is_conj() and not tensor.is_neg()
