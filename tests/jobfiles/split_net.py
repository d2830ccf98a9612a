"""A job whose model can be cut anywhere, trains in no time, and misbehaves on request, in one micro-batch's forward."""

import os
import signal
from pathlib import Path

import brake
import torch
from torch import nn

from manyhands import Evaluation, Job


class Data:
    def __init__(self, samples, fault=""):
        self.samples, self.fault = samples, fault

    def __len__(self):
        return self.samples

    def __getitem__(self, i):
        generator = torch.Generator().manual_seed(i)
        x = torch.randn(5 if self.fault == "lengths" and i % 4 > 1 else 4, 6, generator=generator)
        return x, x.sum()


class Layer(nn.Module):
    """A layer; the one with the fault misbehaves in the third step."""

    def __init__(self, fault, mark):
        super().__init__()
        self.norm, self.linear, self.drop = nn.LayerNorm(6), nn.Linear(6, 6), nn.Dropout(0.1)
        self.fault, self.mark, self.calls = fault, mark, 0

    def forward(self, x):
        self.calls += 1
        if self.fault and self.training and self.calls > 8:
            if self.fault == "nan":
                x = x * float("nan")
            if self.fault == "raise":
                raise ValueError("this layer is tired")
            if self.fault == "stop_self" and not self.mark.exists():
                self.mark.write_text(str(os.getpid()))
                os.kill(os.getpid(), signal.SIGSTOP)
        return x + self.drop(torch.tanh(self.linear(self.norm(x))))


class Net(nn.Module):
    def __init__(self, layers, fault, mark, frozen, brake_file):
        super().__init__()
        self.layers = nn.ModuleList(Layer(fault if i == 3 else "", mark) for i in range(layers))
        self.head = nn.Linear(6, 1)
        self.layers[:frozen].requires_grad_(False)
        self.brake_file = brake_file

    def forward(self, x):
        brake.pause(self.brake_file)
        for layer in self.layers:
            x = layer(x)
        return self.head(x).mean((1, 2))


class Restless(nn.Module):
    """Goes its way by what it computes: it cannot be cut."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 1)

    def forward(self, x):
        x = self.first(x)
        if float(x.detach().sum()) > 0:
            x = torch.tanh(x) * float(x.detach().mean())
        return self.head(self.second(x)).mean((1, 2))


class Coupled(torch.optim.SGD):
    """Divides every gradient by its own norm."""

    def step(self, closure=None):
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    param.grad = param.grad / (param.grad.norm() + 1e-8)
        super().step(closure)


OPTIMIZERS = {"adamw": torch.optim.AdamW, "coupled": Coupled}


def job(
    fault: str = "",
    mark: Path = Path("mark"),
    layers: int = 5,
    frozen: int = 0,
    optimizer: str = "adamw",
    brake_file: Path | None = None,
    brake_step: int = 0,
    batch_size: int = 8,
    micro_batches: int = 4,
    steps: int = 20,
    evaluate: bool = False,
) -> Job:
    def loss(output, target):
        if fault == "loss":
            raise RuntimeError("no opinion")
        return ((output - target) ** 2).mean()

    def factor(step):
        brake.hold(brake_file, step, brake_step)
        return 1.0 / (1 + step)

    inside = fault if fault in ("nan", "raise", "stop_self") else ""
    return Job(
        model=lambda: Restless() if fault == "restless" else Net(layers, inside, mark, frozen, brake_file),
        data=lambda: Data(40, fault),
        loss=loss,
        optimizer=lambda params: OPTIMIZERS[optimizer](params, lr=0.01),
        scheduler=lambda made: torch.optim.lr_scheduler.LambdaLR(made, factor),
        batch_size=batch_size,
        micro_batches=micro_batches,
        steps=steps,
        clip_grad_norm=1.0,
        evaluate=Evaluation(data=lambda: Data(10), every=10) if evaluate else None,
    )
