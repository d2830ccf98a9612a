"""Cross entropy of logits whose classes are split, without ever having all of them in one place.

    loss = log sum_v exp(z_v) - z_target,      gradient = softmax(z) - onehot(target)

Each worker knows the maximum, the sum of exponentials and maybe the target's logit of its own classes; three
all-reduces of one number per row replace an all-gather of all logits (Megatron-LM, arXiv:1909.08053, section 3).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from manyhands.tensor_parallel.tensor import NoRule, SplitTensor, rule


@rule("cross_entropy")
def cross_entropy(
    func: Callable[..., Any], logits: Any, target: Tensor, weight: Tensor | None = None, size_average: Any = None,
    ignore_index: int = -100, reduce: Any = None, reduction: str = "mean", label_smoothing: float = 0.0,
) -> Any:  # fmt: skip
    """Cross entropy of logits (rows, classes) whose classes are split, and the classes' numbers."""
    if not isinstance(logits, SplitTensor) or logits.ndim != 2 or logits.axis != 1 or len(logits.shares.pieces) > 1:
        raise NoRule
    if weight is not None or size_average is not None or reduce is not None or target.is_floating_point():
        raise NoRule
    local = logits.local
    if torch.is_autocast_enabled(local.device.type):
        local = local.float()
    counted = target != ignore_index
    if target.device.type == "cpu" and not ((target >= 0) & (target < logits.shape[1]) | ~counted).all():
        raise NoRule  # torch says which target is out of bounds
    losses = _CrossEntropy.apply(local, target.where(counted, 0), logits, label_smoothing)
    losses = losses.where(counted, 0.0)
    if reduction == "none":
        return losses
    return losses.sum() / counted.sum() if reduction == "mean" else losses.sum()


class _CrossEntropy(torch.autograd.Function):
    """The cross entropy of each row."""

    @staticmethod
    def forward(ctx: Any, local: Tensor, target: Tensor, logits: SplitTensor, smoothing: float) -> Tensor:
        peers, split = logits.peers, logits.shares
        start, length = split.ranges(peers.rank)[0]
        shifted = local - peers.largest(local.amax(1)).unsqueeze(1)
        mine = (target >= start) & (target < start + length)
        place = (target - start).where(mine, 0).unsqueeze(1)
        found = shifted.gather(1, place).squeeze(1).where(mine, 0.0)
        chances = shifted.exp()
        parts = [chances.sum(1), found] + ([shifted.sum(1) / split.size] if smoothing else [])
        total, found, *mean = peers.sum(torch.stack(parts)).unbind(0)
        ctx.save_for_backward(chances.div_(total.unsqueeze(1)), place, mine)
        ctx.how = (smoothing, split.size)
        loss = total.log() - found
        return loss + smoothing * (found - mean[0]) if smoothing else loss

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        chances, place, mine = ctx.saved_tensors
        smoothing, classes = ctx.how
        whole = chances - smoothing / classes
        whole.scatter_add_(1, place, ((smoothing - 1) * mine.to(whole.dtype)).unsqueeze(1))
        return whole * grads[0].unsqueeze(1), None, None, None
