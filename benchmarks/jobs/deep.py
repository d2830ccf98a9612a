"""A job whose activations need far more memory than its weights: it grows through the forward, shrinks in the backward.

manyhands train benchmarks/jobs/deep.py --workers 1 -- --megabytes 8000
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manyhands import Job

WIDTH = 1024


class Data(torch.utils.data.Dataset):
    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return 8

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(self.rows, WIDTH, generator=torch.Generator().manual_seed(i))
        return x, x.roll(1, 1)


class Deep(nn.Module):
    """One matrix, used again and again; every use keeps its input and its output for the backward."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.layer, self.times = nn.Linear(WIDTH, WIDTH), times

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = torch.tanh(self.layer(x))
        return x


def job(megabytes: float = 64.0, times: int = 32) -> Job:
    rows = max(1, round(megabytes * 1e6 / (times * 4 * WIDTH)))
    return Job(
        model=lambda: Deep(times),
        data=lambda: Data(rows),
        loss=F.mse_loss,
        optimizer=lambda params: torch.optim.SGD(params, lr=1e-4),
        batch_size=1,
        micro_batches=1,
        steps=1_000_000,
    )
