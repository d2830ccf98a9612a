"""A job of which one worker flips a bit, once: of a gradient, a weight, or what the optimizer keeps. Or whose workers
count."""

import os
from pathlib import Path

import torch
from torch import nn

from manyhands import Job


def flip(tensor, element=0, bit=20):
    """One bit of a float32 tensor becomes another."""
    with torch.no_grad():
        tensor.view(torch.int32).reshape(-1)[element] ^= 1 << bit


def first(mark):
    """Whether this is the first process that comes here."""
    try:
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


class Net(nn.Module):
    def __init__(self, counts):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 1))
        self.counts, self.calls = counts, 0

    def forward(self, x):
        self.calls += 1
        scale = 0.5 if self.counts and self.calls > 40 else 1.0
        return self.body(x).squeeze(-1) * scale


class Data:
    def __len__(self):
        return 40

    def __getitem__(self, i):
        x = torch.randn(4, generator=torch.Generator().manual_seed(i))
        return x, x.sum()


def job(what: str = "", at: int = 10, mark: Path = Path("mark"), steps: int = 40) -> Job:
    held = {}

    def model():
        held["model"] = Net(what == "counts")
        return held["model"]

    def due():
        return held["scheduler"].last_epoch == at and first(mark)

    def optimizer(params):
        found = held["optimizer"] = torch.optim.Adam(params, lr=0.01)
        return found

    def scheduler(optimizer):
        held["scheduler"] = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
        return held["scheduler"]

    def loss(output, target):
        value = ((output - target) ** 2).mean()
        weight = held["model"].body[0].weight
        if what == "gradient" and value.requires_grad and due():
            handle = weight.register_hook(lambda gradient: (handle.remove(), wrong(gradient))[1])
        if what == "weight" and due():
            value.register_hook(lambda gradient: flip(weight))  # once backward has begun, as a gradient is not needed
        if what == "state" and due():
            flip(held["optimizer"].state[weight]["exp_avg"])
        return value

    def wrong(gradient):
        gradient = gradient.clone()
        flip(gradient)
        return gradient

    return Job(
        model=model,
        data=Data,
        loss=loss,
        optimizer=optimizer,
        scheduler=scheduler,
        batch_size=8,
        micro_batches=4,
        steps=steps,
    )
