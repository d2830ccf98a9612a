"""A job whose parts are built once, and remember what was done with them: a check must not leave anything behind."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from manyhands import Job


class Data:
    """Numbered samples, which are looked up only once."""

    def __init__(self) -> None:
        self.kept: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index not in self.kept:
            self.kept[index] = torch.randn(6, generator=torch.Generator().manual_seed(index)) + torch.randn(6)
        return self.kept[index], torch.tensor([float(index % 5)])


class Net(nn.Module):
    """Layers, of which the first moves a weight that is frozen, if it is told to."""

    def __init__(self, moves: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(4))
        self.head, self.moves = nn.Linear(6, 1), moves
        self.slow = nn.Parameter(torch.zeros(6), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.moves and self.training:
            with torch.no_grad():
                self.slow += 0.01
        x = x + self.slow
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return self.head(x)


def job(steps: int = 4, moves: bool = False) -> Job:
    built: list[nn.Module] = []

    def model() -> nn.Module:
        if built:
            raise ValueError("net is registered already")
        built.append(Net(moves))
        return built[0]

    def loss(output: Tensor, target: Tensor) -> Tensor:
        """Looks at the weights of the model that is trained, and at no copy's."""
        return nn.functional.mse_loss(output, target) + 1e-2 * built[0].head.weight.square().sum()

    return Job(
        model=model,
        data=Data,
        loss=loss,
        optimizer=lambda params: torch.optim.AdamW(params, lr=0.01),
        batch_size=16,
        micro_batches=4,
        steps=steps,
    )
