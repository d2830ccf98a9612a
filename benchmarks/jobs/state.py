"""A job whose state (weights and AdamW's moments) has a given size, and which computes little for it.

manyhands train benchmarks/jobs/state.py --workers 2 -- --megabytes 100 --tokens 16
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manyhands import Job

_BYTES_PER_PARAMETER = 12
"""fp32: the weight and AdamW's two moments."""


class Vectors(torch.utils.data.Dataset):
    """Sequences of random vectors; the target is the same sequence turned by one."""

    def __init__(self, tokens: int, width: int) -> None:
        self.rows = torch.randn(256, tokens, width, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.rows[i], self.rows[i].roll(1, 0)


class Stack(nn.Module):
    """Residual layers of equal width: many tensors of a few MB, as models have them."""

    def __init__(self, megabytes: float, width: int) -> None:
        super().__init__()
        count = max(1, round(megabytes * 1e6 / _BYTES_PER_PARAMETER / (width * (width + 1))))
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + torch.tanh(layer(x)) / len(self.layers)
        return x


def job(megabytes: float = 1.0, tokens: int = 512, batch_size: int = 32, micro_batches: int = 4) -> Job:
    width = 1024 if megabytes >= 50 else 128
    return Job(
        model=lambda: Stack(megabytes, width),
        data=lambda: Vectors(tokens, width),
        loss=F.mse_loss,
        optimizer=lambda params: torch.optim.AdamW(params, lr=1e-4),
        batch_size=batch_size,
        micro_batches=micro_batches,
        steps=1_000_000,
    )
