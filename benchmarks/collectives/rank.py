"""A rank that times collectives, and also steps of training over them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from ddp import DDPLoop
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from manyhands.bench.rank import main
from manyhands.training.jobfile import load_job

JOB = Path(__file__).resolve().parents[1] / "jobs" / "example.py"
_kept: dict[str, Any] = {}


def ddp(steps: int) -> float:
    """Seconds of a step of `examples/gpt.py` under DDP, every rank's share of the batch in one pass."""
    if "ddp" not in _kept:
        loop = DDPLoop(load_job(JOB, ["--example", "gpt"]), dist.get_world_size(), backend=None)
        shares = loop.shares(0)
        _kept["ddp"] = loop, shares
        for _ in range(3):  # in the first ones DDP rebuilds its buckets
            loop.step(next(shares))
    loop, shares = _kept["ddp"]
    batches = [next(shares) for _ in range(steps)]
    dist.barrier()
    began = time.perf_counter()
    for share in batches:
        loop.step(share)
    return (time.perf_counter() - began) / steps


def fsdp(steps: int, width: int, layers: int) -> int:
    """Steps of a small model under FSDP2; the bytes of its parameters."""
    if "fsdp" not in _kept:
        torch.manual_seed(0)
        model = nn.Sequential(*(nn.Linear(width, width) for _ in range(layers)))
        size = sum(p.numel() * p.element_size() for p in model.parameters())
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        for layer in model:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        _kept["fsdp"] = model, torch.optim.SGD(model.parameters(), lr=1e-3), size
    model, optimizer, size = _kept["fsdp"]
    for _ in range(steps):
        model(torch.ones(4, width)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return size


def describe() -> str:
    """What the group chose, if it can tell."""
    group = dist.group.WORLD
    own = group._get_backend(torch.device("cpu")) if group is not None else None
    return getattr(getattr(own, "_group", None), "description", "")


if __name__ == "__main__":
    main({"ddp": ddp, "fsdp": fsdp, "describe": describe})
