"""A job whose layers sleep, forward and backward: ranks overlap honestly, whatever else the machine does."""

import time

import torch
from torch import nn

from manyhands import Job


class _Sleep(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, seconds):
        ctx.seconds = seconds
        time.sleep(seconds)
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        time.sleep(2 * ctx.seconds)
        return gradient.clone(), None


class Layer(nn.Module):
    def __init__(self, width, seconds):
        super().__init__()
        self.linear, self.seconds = nn.Linear(width, width), seconds

    def forward(self, x):
        return _Sleep.apply(torch.tanh(self.linear(x)), self.seconds)


class Data:
    def __len__(self):
        return 64

    def __getitem__(self, i):
        x = torch.randn(8, generator=torch.Generator().manual_seed(i))
        return x, x.sum().tanh()


def job(layers: int = 4, seconds: float = 0.002, micro_batches: int = 4, steps: int = 50, frozen: bool = False) -> Job:
    def model():
        blocks = nn.Sequential(*(Layer(8, seconds) for _ in range(layers)))
        if frozen:
            blocks[0].requires_grad_(False)
        return blocks

    return Job(
        model=model,
        data=Data,
        loss=lambda output, target: ((output.mean(-1) - target) ** 2).mean(),
        optimizer=lambda params: torch.optim.AdamW(params, lr=1e-3),
        batch_size=2 * micro_batches,
        micro_batches=micro_batches,
        steps=steps,
    )
