"""What is trained: the model, its optimizer and schedule, and how many steps they have seen."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import LBFGS, Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from manyhands.errors import JobError, UserError
from manyhands.job import Job
from manyhands.training.losses import NotFiniteError
from manyhands.training.seeds import Generators, seed_everything, stream_seed


class Learner:
    """A job's model as it learns; how its gradients come about is others' affair (steps/).

    Args:
        job: says how all of it is built.
        device: where the model is put.

    Attributes:
        model: as built; the part of a pipeline may put another in its place.
        step: steps done.

    Raises:
        JobError: what the job's functions return is not what they should.
    """

    def __init__(self, job: Job, device: torch.device) -> None:
        self.job, self.device = job, device
        _check_loss(job)
        self.step = 0
        seed_everything(stream_seed(job.seed, "model"), device)
        self.model: nn.Module = _build_model(job).to(device)
        self.optimizer: Optimizer = _build("optimizer", job.optimizer, Optimizer, self.model.parameters())
        if isinstance(self.optimizer, LBFGS):
            raise JobError("optimizer() returned an LBFGS, which computes the loss several times a step. Use another.")
        self.scheduler: LRScheduler | None = (
            _build("scheduler", job.scheduler, LRScheduler, self.optimizer) if job.scheduler else None
        )

    @property
    def learning_rate(self) -> float:
        """The learning rate of the first parameter group."""
        return float(self.optimizer.param_groups[0]["lr"])

    def autocast(self) -> AbstractContextManager[Any]:
        """What a forward pass and the loss run in."""
        if self.job.precision == "bf16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()

    def apply(self, losses: Sequence[float]) -> float | None:
        """Apply the gradient that lies in `.grad`. Returns its norm, if the job clips it.

        Raises:
            NotFiniteError: the norm is not finite; nothing has been applied.
        """
        norm = None
        if self.job.clip_grad_norm is not None:
            norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), self.job.clip_grad_norm))
            self.check_norm(norm)
        self.move()
        self.advance(losses)
        return norm

    def check_norm(self, norm: float) -> None:
        """Raise `NotFiniteError` if the gradient's norm is not finite."""
        if not math.isfinite(norm):
            raise NotFiniteError(
                f"the norm of the gradient became {norm} at step {self.step + 1}, though the loss is finite. Lower "
                "the learning rate, or look for a square root or logarithm of zero."
            )

    def move(self, draws: bool = True) -> None:
        """Have the optimizer apply the gradients, on every worker alike.

        Args:
            draws: the optimizer may draw random numbers.

        Raises:
            UserError: it has, and may not.
        """
        seed_everything(stream_seed(self.job.seed, self.step, "update"), self.device)
        before = None if draws else Generators.read(self.device)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if before is not None and Generators.read(self.device).moved_from(before):
            raise UserError(
                f"the optimizer has drawn random numbers in step {self.step + 1}, and each worker holds a part of the "
                "model: it would draw others than one worker. Train replicas (--workers, no --layout)."
            )

    def advance(self, losses: Sequence[float]) -> None:
        """Move the schedule on."""
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(math.fsum(losses) / len(losses))
        elif self.scheduler is not None:
            self.scheduler.step()


def _build_model(job: Job) -> nn.Module:
    model = job.model()
    if not isinstance(model, nn.Module):
        raise JobError(f"model() must return an nn.Module; it returned a {type(model).__name__}.")
    if not any(p.requires_grad for p in model.parameters()):
        raise JobError("the model has no parameter that requires a gradient: there is nothing to train.")
    if not model.training:  # as pretrained ones come: without dropout, and with frozen batch norm
        model.train()
    return model


def _check_loss(job: Job) -> None:
    """
    Raises:
        JobError: the loss is a module with weights of its own, which the optimizer never gets.
    """
    loss = job.loss.func if isinstance(job.loss, partial) else getattr(job.loss, "__self__", job.loss)
    names = [name for name, p in loss.named_parameters() if p.requires_grad] if isinstance(loss, nn.Module) else []
    if names:
        raise JobError(
            f"loss is a {type(loss).__name__} with weights of its own ({', '.join(names[:3])}), and only the model's "
            "are trained. Make it a part of the model: let forward return what it computes, and the loss what is left."
        )


def _build(name: str, factory: Callable[[Any], Any], kind: type, argument: object) -> Any:
    built = factory(argument)
    if not isinstance(built, kind):
        raise JobError(f"{name}() must return a {kind.__name__}; it returned a {type(built).__name__}.")
    return built
