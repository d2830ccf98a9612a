"""Attention on heads that are split: each worker attends with its own.

With dropout, the probabilities are computed step by step and their mask is the whole one, drawn as torch's unfused
attention draws it (which is what one worker runs on a CPU when there is dropout).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from manyhands.tensor_parallel.rules.elementwise import whole_mask
from manyhands.tensor_parallel.tensor import NoRule, SplitTensor, rule, share_of


@rule("scaled_dot_product_attention")
def attention(
    func: Callable[..., Any], query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> Any:  # fmt: skip
    """Attention for split heads. Tensors are (..., heads, queries, width); keys and values may have fewer heads."""
    if not isinstance(query, SplitTensor) or query.from_end > -3:
        raise NoRule
    from_end = query.from_end
    if not all(_same_heads(query, other, enable_gqa) for other in (key, value)):
        raise NoRule
    mask = share_of(attn_mask, query, from_end, query.shares)
    if dropout_p == 0.0:
        local = func(query.local, key.local, value.local, mask, 0.0, is_causal, scale=scale, enable_gqa=enable_gqa)
    else:
        local = _with_dropout(query, key.local, value.local, mask, dropout_p, is_causal, scale)
    return query.like(local, local.ndim + from_end)


def _same_heads(query: SplitTensor, other: Any, grouped: bool) -> bool:
    """Whether each worker has the keys or values that belong to its queries."""
    if not isinstance(other, SplitTensor) or other.from_end != query.from_end:
        return False
    one_piece = len(query.shares.pieces) == len(other.shares.pieces) == 1
    return other.shares == query.shares or (grouped and one_piece and other.shares.counts == query.shares.counts)


def _with_dropout(
    query: SplitTensor, key: Tensor, value: Tensor, mask: Tensor | None, p: float, is_causal: bool, scale: float | None
) -> Tensor:
    groups = query.local.shape[-3] // key.shape[-3]
    if groups > 1:
        key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
    root = math.sqrt(1 / math.sqrt(query.sizes[-1]) if scale is None else scale)  # on both factors, as torch does
    if is_causal:
        mask = torch.ones(query.sizes[-2], key.shape[-2], dtype=torch.bool, device=key.device).tril()
    scores = (query.local * root) @ (key * root).transpose(-2, -1)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    chances = F.softmax(scores, -1)
    if mask is not None and mask.dtype == torch.bool:
        chances = chances.masked_fill(~mask.any(-1, keepdim=True), 0.0)  # a query that sees nothing
    chances = query.like(chances.contiguous(), chances.ndim + query.from_end)
    return (chances.local * whole_mask(chances, p)) @ value
