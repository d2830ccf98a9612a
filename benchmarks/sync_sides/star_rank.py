"""A rank that exchanges gradients which cost next to nothing to compute, so that links are what counts."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from manyhands import Job, Plan, Trainer
from manyhands.transport import Group

WIDTH = 512
LAYER_BYTES = 4 * WIDTH * WIDTH


def rate(
    meet: Callable[[list[int], str], Group], rank: int, name: str, sync: str, workers: int, layers: int, steps: int
) -> float | None:
    """Seconds of a step, of so many in a row after a first one; None on ranks that the plan does not need."""
    plan = Plan(workers=workers, sync=sync, device="cpu")
    if rank >= plan.gang:
        return None
    trainer = Trainer(_job(workers, layers), plan, device="cpu")
    gang = meet(list(range(plan.gang)), name)
    trainer.join(gang)
    trainer.train_step()
    trainer.policy.arrive()
    gang.barrier().result()
    began = time.perf_counter()
    for _ in range(steps):
        trainer.train_step()
    trainer.policy.arrive()
    seconds = (time.perf_counter() - began) / steps
    gang.barrier().result()
    trainer.leave()
    return seconds


def _job(workers: int, layers: int) -> Job:
    return Job(
        model=lambda: nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(layers))),
        data=lambda: TensorDataset(torch.ones(1024, WIDTH), torch.zeros(1024, WIDTH)),
        loss=F.mse_loss,
        optimizer=lambda params: torch.optim.SGD(params, lr=1e-6),
        batch_size=workers,
        micro_batches=workers,
        steps=10_000,
    )
