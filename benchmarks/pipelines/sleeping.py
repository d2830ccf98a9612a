"""A model whose layers sleep: in forward, for the gradient of their input, and for that of their weights, each in a
node of autograd of its own, so that a schedule may take them apart. Ranks that sleep need no core: more of them than
there are cores overlap as they would on devices of their own."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from manyhands import Job


class Times(NamedTuple):
    """Seconds of one layer."""

    forward: float
    input: float
    weight: float


class _Input(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, times: Times) -> Tensor:
        ctx.times = times
        time.sleep(times.forward)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        time.sleep(ctx.times.input)
        return grads[0].clone(), None


class _Weight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, times: Times) -> Tensor:
        ctx.times = times
        return weight.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        time.sleep(ctx.times.weight)
        return grads[0].clone(), None


class Sleeper(nn.Module):
    """A layer. The first of a model begins with a weight, so that its input has a gradient, as that of others."""

    def __init__(self, times: Times, first: bool) -> None:
        super().__init__()
        self.times, self.scale = times, nn.Parameter(torch.ones(1)) if first else None
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        if self.scale is not None:
            x = x * self.scale
        return _Input.apply(x, self.times) + _Weight.apply(self.weight, self.times)


class _Ones(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 1024

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return torch.ones(1), torch.ones(1)


def job(layers: Sequence[Times], micro_batches: int) -> Job:
    """Of layers that sleep."""
    return job_of(
        lambda: nn.Sequential(*(Sleeper(times, index == 0) for index, times in enumerate(layers))), micro_batches
    )


def job_of(model: Callable[[], nn.Module], micro_batches: int) -> Job:
    """Of a model of one number, with one sample a micro-batch."""
    return Job(
        model=model,
        data=_Ones,
        loss=lambda output, target: (output - target).square().mean(),
        optimizer=lambda params: torch.optim.SGD(params, lr=1e-3),
        batch_size=micro_batches,
        micro_batches=micro_batches,
        steps=1_000_000,
    )
