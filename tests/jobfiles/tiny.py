"""A job that trains in no time, and misbehaves on request."""

import os
import signal
import time
from pathlib import Path

import brake
import torch
from torch import nn

from manyhands import Evaluation, Job


class Data:
    def __init__(self, samples, fault, mark):
        self.samples, self.fault, self.mark = samples, fault, mark

    def __len__(self):
        return self.samples

    def __getitem__(self, i):
        x = torch.randn(4, generator=torch.Generator().manual_seed(i))
        if self.fault == "shape" and i == 7:
            x = x[:3]
        if self.fault == "pair":
            return x
        if self.fault == "nan" and i == 7:
            x = x * float("nan")
        if self.fault == "raise" and i == 7:
            raise KeyError("no such picture")
        if self.fault in ("exit", "segfault", "stop_self", "once") and i == 7:
            misbehave(self.fault, self.mark)
        return x, x.sum()


def misbehave(fault, mark):
    if fault == "exit":
        os._exit(3)
    if fault == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    first = not mark.exists()
    if first:
        mark.write_text(str(os.getpid()))
    if fault == "stop_self" and first:  # hangs once, as a process on a dead file system does
        os.kill(os.getpid(), signal.SIGSTOP)
    if fault == "once" and first:
        os.kill(os.getpid(), signal.SIGKILL)


class Net(nn.Module):
    def __init__(self, width, pause, brake_file, noisy):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Dropout(0.1), nn.Linear(width, 1))
        self.pause, self.brake_file = pause, brake_file
        if noisy:
            print("built a net")

    def forward(self, x):
        time.sleep(self.pause)
        brake.pause(self.brake_file)
        return self.body(x).squeeze(-1)


def job(
    fault: str = "",
    mark: Path = Path("mark"),
    samples: int = 40,
    width: int = 8,
    pause: float = 0.0,
    brake_file: Path | None = None,
    brake_step: int = 0,
    batch_size: int = 8,
    micro_batches: int = 4,
    steps: int = 20,
    epochs: int | None = None,
    noisy: bool = False,
    evaluate: bool = False,
    reproducible: bool = True,
) -> Job:
    def loss(output, target):
        value = (output - target) ** 2
        return value if fault == "vector" else value.mean()

    def data():
        if fault == "late" and mark.exists():
            raise OSError("the data is gone")
        return Data(samples, fault, mark)

    def factor(step):
        brake.hold(brake_file, step, brake_step)
        return 1.0

    return Job(
        model=lambda: Net(width, pause, brake_file, noisy),
        data=data,
        loss=loss,
        optimizer=lambda params: torch.optim.Adam(params, lr=0.01),
        scheduler=(lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, factor)) if brake_file else None,
        batch_size=batch_size,
        micro_batches=micro_batches,
        steps=None if epochs else steps,
        epochs=epochs,
        reproducible=reproducible,
        evaluate=Evaluation(data=lambda: Data(10, "", mark), every=5) if evaluate else None,
    )
