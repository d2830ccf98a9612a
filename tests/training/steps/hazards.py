"""Jobs that a gang would train to something else than one worker, or fails at, unless it is refused.

In some ways of training they are right, in others they have to be refused (test_check.py).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from split_jobs import Chain, evaluation, job, numbers, squares
from torch import Tensor, nn

from manyhands import Job


class Beside(Chain):
    """Keeps a value beside its layers, for the next of them."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: Any = None
        for number, layer in enumerate(self.layers):
            layer.register_forward_pre_hook(partial(self._keep, number))

    def _keep(self, number: int, layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if number == 0:
            self.kept = inputs[0].detach().abs()
        return (inputs[0] * self.kept,)


class Hooked(Chain):
    """Scales a weight's gradient by a hook."""

    def __init__(self) -> None:
        super().__init__()
        self.layers[1].weight.register_hook(lambda gradient: gradient * 0.5)


class Moving(Chain):
    """Its forward pass moves a weight that is not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.slow = nn.Linear(6, 6)
        self.slow.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.slow.weight.lerp_(self.layers[0].weight, 0.1)
        return super().forward(x + self.slow(x))


class Counting(Chain):
    """Knows how often it was called."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x) / self.calls


class TwoWays(Chain):
    """Goes another way in evaluation."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x))
            if self.training:
                x = x + 0.1
        return self.head(x)


class Moved(Chain):
    """Has a buffer that moves in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += x.detach().abs().mean()
        return super().forward(x) + self.seen


class Noisy(torch.optim.SGD):
    """Draws noise for every weight, one after another."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        super().step()
        for group in self.param_groups:
            for param in group["params"]:
                param += 0.01 * torch.randn_like(param)


HAZARDS: dict[str, Callable[[], Job]] = {
    "beside": lambda: job(Beside, numbers, squares),
    "hooked": lambda: job(Hooked, numbers, squares),
    "moving": lambda: job(Moving, numbers, squares),
    "counting": lambda: job(Counting, numbers, squares),
    "two-ways": lambda: job(TwoWays, numbers, squares),
    "moved": lambda: job(Moved, numbers, squares, evaluate=evaluation(numbers, 12, 2)),
    "noisy": lambda: job(Chain, numbers, squares, optimizer=partial(Noisy, lr=0.1)),
    "adagrad": lambda: job(Chain, numbers, squares, optimizer=torch.optim.Adagrad),
}  # fmt: skip
