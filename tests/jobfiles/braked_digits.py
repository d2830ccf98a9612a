"""examples/digits.py with a brake."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import brake
import torch

from manyhands import Job

EXAMPLE = Path(__file__).parents[2] / "examples" / "digits.py"
_spec = importlib.util.spec_from_file_location("digits", EXAMPLE)
digits = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(digits)


def job(brake_file: Path, brake_step: int, steps: int, batch_size: int, width: int) -> Job:
    plain = digits.job(steps=steps, batch_size=batch_size, width=width)

    class Braked(torch.optim.lr_scheduler.OneCycleLR):
        def step(self, epoch=None):
            super().step(epoch)
            brake.hold(brake_file, self.last_epoch, brake_step)

    def scheduler(optimizer):
        made = plain.scheduler(optimizer)
        made.__class__ = Braked
        return made

    return replace(plain, scheduler=scheduler)
