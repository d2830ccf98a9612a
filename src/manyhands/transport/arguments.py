"""What operations check of the tensors they are given, and do with them at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import torch
from torch import Tensor

from manyhands.transport.interpreter import DTYPES


def then(first: Future[int], finish: Callable[[], Any]) -> Future[int]:
    """A future that is done when `finish` is, which runs after the first one's success."""
    both: Future[int] = Future()

    def on_done(future: Future[int]) -> None:
        try:
            result = future.result()
            finish()
        except BaseException as error:
            both.set_exception(error)
        else:
            both.set_result(result)

    first.add_done_callback(on_done)
    return both


def check_dense(operation: str, tensors: Sequence[Tensor]) -> None:
    for tensor in tensors:
        if tensor.dtype not in DTYPES or tensor.device.type not in ("cpu", "cuda") or not tensor.is_contiguous():
            raise ValueError(
                f"{operation} needs contiguous tensors of a number's dtype, on the CPU or CUDA; got one of "
                f"{tensor.dtype} on {tensor.device} with strides {tensor.stride()}. Pass a contiguous copy, or view it "
                "as another dtype."
            )


def check_lossy(tensor: Tensor, lost: Tensor, op: str) -> None:
    if tensor.dtype != torch.float32 or op not in ("sum", "avg"):
        raise ValueError(f"only sums and averages of float32 can travel in a lossy format; got {op} of {tensor.dtype}")
    if lost.shape != tensor.shape or lost.dtype != tensor.dtype or lost.data_ptr() == tensor.data_ptr():
        raise ValueError(f"`lost` must be another float32 tensor of shape {tuple(tensor.shape)}, like torch.zeros_like")


def check_sizes(whole: Tensor, part: Tensor, world: int, operation: str) -> None:
    if whole.numel() != world * part.numel() or whole.dtype != part.dtype:
        raise ValueError(
            f"{operation} over {world} ranks needs a tensor of {world} times the part's elements, of one dtype; got "
            f"{whole.numel()} x {whole.dtype} and {part.numel()} x {part.dtype}"
        )


def divide(tensor: Tensor, world: int) -> None:
    if tensor.dtype.is_floating_point:
        tensor.div_(world)
    else:
        tensor.copy_(torch.div(tensor, world, rounding_mode="trunc"))
