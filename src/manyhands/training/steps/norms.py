"""The norm of the whole gradient, whoever holds which part of it.

A parameter that one worker has whole contributes its norm, computed as one worker would. One whose gradient replicas
divide (ZeRO 2 and 3) is gathered for it, one after another, because the last bit of the norm decides about all
weights; without `reproducible`, and where a tensor group divides it, the squares of the shards are added. The norms
are then put together in the model's order, which for pipelines gives the same bits as
`torch.nn.utils.clip_grad_norm_` in an unsplit run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

import torch
from torch import Tensor

from manyhands.parallel.parts import Placed


def total(placed: Placed, known: Mapping[str, float], exact: bool) -> Tensor:
    """The norm, a scalar of fp32; every worker calls it and gets the same.

    Args:
        known: norms of whole gradients of which only a share is left.
        exact: gather what replicas divide.
    """
    said: dict[str, float] = dict(known) if placed.mesh.speaks else {}
    divided: dict[str, float] = {}
    for name, handle in placed.handles.items():
        if handle.grad is None or name in known:
            continue
        if exact and name in placed.sharded and name not in placed.placements:
            norm = float(torch.linalg.vector_norm(placed.together(name, handle.grad)))
            said |= {name: norm} if placed.mesh.speaks else {}
        elif name in placed.divided:
            if placed.counts(name):
                divided[name] = float(torch.linalg.vector_norm(handle.grad.double()).square())
        elif placed.mesh.speaks:
            said[name] = float(torch.linalg.vector_norm(handle.grad))
    everyone = [json.loads(f) for f in placed.mesh.gang.all_gather_bytes(json.dumps([said, divided]).encode())]
    whole: dict[str, float] = {}
    squares: dict[str, list[float]] = {}
    for norms, parts in everyone:
        whole |= norms
        for name, square in parts.items():
            squares.setdefault(name, []).append(square)
    whole |= {name: math.sqrt(math.fsum(parts)) for name, parts in squares.items()}
    ordered = [whole[name] for name in placed.names.order if name in whole]
    return torch.linalg.vector_norm(torch.tensor(ordered, dtype=torch.float32))
