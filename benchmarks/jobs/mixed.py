"""Jobs that are bound by one thing: computing, moving gradients, or waiting for data.

manyhands train benchmarks/jobs/mixed.py --workers 2 -- --bound compute
"""

import time
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manyhands import Job

MICRO_BATCHES = 2
BATCH = 16


class Vectors(torch.utils.data.Dataset):
    """Random vectors; each takes so many seconds to come, as from a store far away (the wait is a sleep)."""

    def __init__(self, width: int, wait: float) -> None:
        self.rows = torch.randn(512, width, generator=torch.Generator().manual_seed(0))
        self.wait = wait

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        time.sleep(self.wait)
        return self.rows[i], self.rows[i].roll(1)


class Turns(nn.Module):
    """Layers that are used `times` times each: computing without parameters."""

    def __init__(self, width: int, layers: int, times: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.times = times

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            for _ in range(self.times):
                x = torch.tanh(layer(x))
        return x


def job(bound: Literal["compute", "exchange", "data"] = "compute", steps: int = 100_000, scale: float = 1.0) -> Job:
    width, layers, times, wait = {
        "compute": (128, 1, int(1500 * scale), 0.0),
        "exchange": (256, int(4 * scale), 1, 0.0),
        "data": (128, 1, 4, 0.004 * scale),
    }[bound]
    return Job(
        model=lambda: Turns(width, layers, times),
        data=lambda: Vectors(width, wait),
        loss=F.mse_loss,
        optimizer=lambda params: torch.optim.SGD(params, lr=1e-4),
        batch_size=BATCH,
        micro_batches=MICRO_BATCHES,
        steps=steps,
    )
