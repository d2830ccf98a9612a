"""Products of matrices, where the split dimension is not summed over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from manyhands.tensor_parallel.tensor import NoRule, SplitTensor, rule, share_of, splits_of


@rule("matmul", "__matmul__", "bmm")
def matmul(func: Callable[..., Any], left: Any, right: Any, **kwargs: Any) -> Any:
    """Products (..., n, k) @ (..., k, m), split in a leading dimension, in n or in m."""
    if min(left.ndim, right.ndim) < 2 or kwargs:
        raise NoRule
    leader = max(splits_of((left, right)), key=lambda split: -split.from_end)
    from_end, split = leader.from_end, leader.shares
    if from_end <= -3:
        left, right = share_of(left, leader, from_end, split), share_of(right, leader, from_end, split)
    elif leader is left and from_end == -2 and not isinstance(right, SplitTensor):
        left, right = left.local, leader.peers.enter(right)
    elif leader is right and from_end == -1 and not isinstance(left, SplitTensor):
        left, right = leader.peers.enter(left), right.local
    else:
        raise NoRule
    local = func(left, right)
    return leader.like(local, local.ndim + from_end)


@rule("__rmatmul__")
def rmatmul(func: Callable[..., Any], right: Any, left: Any) -> Any:
    return matmul(Tensor.matmul, left, right)


@rule("linear")
def linear(func: Callable[..., Any], tensor: Any, weight: Any, bias: Any = None) -> Any:
    """A whole weight's product with each share: the split dimension is not the features."""
    if not isinstance(tensor, SplitTensor) or tensor.from_end == -1 or isinstance(weight, SplitTensor):
        raise NoRule
    enter = tensor.peers.enter
    return tensor.like(func(tensor.local, enter(weight), None if bias is None else enter(bias)))


@rule("einsum")
def einsum(func: Callable[..., Any], equation: str, *operands: Any) -> Any:
    """Einstein sums. The letter of the split dimension must be in the result, once in each operand that has it."""
    operands = tuple(operands[0]) if len(operands) == 1 and isinstance(operands[0], list | tuple) else operands
    inputs, arrow, output = equation.replace(" ", "").partition("->")
    leader = next(splits_of(operands))
    terms = inputs.split(",")
    letter = next(term[t.axis] for term, t in zip(terms, operands, strict=True) if t is leader) if arrow else ""
    if "." in equation or output.count(letter) != 1:
        raise NoRule
    parts = []
    for term, operand in zip(terms, operands, strict=True):
        if letter in term:
            parts.append(share_of(operand, leader, term.index(letter) - len(term), leader.shares))
        else:
            parts.append(leader.peers.enter(operand.whole() if isinstance(operand, SplitTensor) else operand))
    return leader.like(func(equation, *parts), output.index(letter))
