"""A job that computes next to nothing, and sleeps in every forward pass: its steps take as long on a busy machine.

manyhands train benchmarks/jobs/naps.py --workers 2 -- --seconds 0.05
"""

import time

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manyhands import Job


class Napping(nn.Module):
    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 16))
        self.seconds = seconds

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.seconds)
        return self.body(x)


def data() -> torch.utils.data.Dataset:
    rows = torch.randn(4096, 16, generator=torch.Generator().manual_seed(0))
    return torch.utils.data.TensorDataset(rows, rows.roll(1, 1))


def job(seconds: float = 0.05, batch_size: int = 96, micro_batches: int = 12) -> Job:
    return Job(
        model=lambda: Napping(seconds),
        data=data,
        loss=F.mse_loss,
        optimizer=lambda params: torch.optim.AdamW(params, lr=1e-3),
        batch_size=batch_size,
        micro_batches=micro_batches,
        steps=1_000_000,
    )
