"""One worker's training loop: law 1 of the design, step by step.

    for step in Trainer(job):
        print(step.step, step.loss)

A `Trainer` owns what is trained (learner.py) and the data (feed.py) of one worker. Alone it trains the whole job in
this process; in a gang (`join`) it takes its part in every step. What a step is made of, for a whole model or for a
part of one, is the affair of steps/. Either way the weights after step s are the same, bit for bit.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

import manyhands.training.steps.same as same
from manyhands.collective import Block
from manyhands.errors import UserError
from manyhands.job import Job
from manyhands.plan import Plan
from manyhands.sync import Finished, Round
from manyhands.timeline import Recorder
from manyhands.training.evaluate import evaluate
from manyhands.training.feed import Feed
from manyhands.training.learner import Learner
from manyhands.training.losses import check_finite
from manyhands.training.steps import MakeSteps, Setting, steps_for
from manyhands.transport import Group


class Step(NamedTuple):
    """A committed step."""

    step: int
    """The step's number, counted from 1: after it, `step` steps are done."""
    epoch: int
    """The epoch of the step's first sample."""
    first: int
    """Position of the step's first sample in that epoch's permutation."""
    last: int
    """Position of its last sample, counted from the same epoch's start: at or over the number of samples, it
    lies in the next epoch's permutation."""
    loss: float
    """Mean loss over the micro-batches."""
    grad_norm: float | None
    """Norm of the whole gradient before clipping; None if the job does not clip."""
    lr: float
    """Learning rate of the first parameter group during the step."""
    flags: tuple[int, ...]
    """What each process of the gang passed as `flag`, by rank; of a round's steps all but the last have none."""


class Trainer:
    """Trains a job on one worker.

    Args:
        job: what to train.
        plan: threads, device, and how a gang divides the work; `workers` is for engines and plays no part here.
        device: overrides the plan's device, for example `cuda:1`.
        recorder: measures the phases.
        tables: the folder of the files that hold the rows of the model's tables, if it has some.
        steps: what makes steps; None: what the plan's layout needs.
        learner: what is trained, if it is there already.
        audit: one micro-batch in so many is computed by a second replica, too; 0: none is.

    Attributes:
        total_steps: steps of the whole job.
        samples: of the training data.

    Raises:
        JobError: what the job's functions return is not what they should.
        UserError: the model is not for the plan's layout.
    """

    def __init__(
        self,
        job: Job,
        plan: Plan | None = None,
        *,
        device: str | None = None,
        recorder: Recorder | None = None,
        tables: Path | None = Path("tables"),
        steps: MakeSteps | None = None,
        learner: Learner | None = None,
        audit: int = 0,
    ) -> None:
        self.job = job
        self.plan = plan or Plan()
        self.device = torch.device(device or ("cuda" if self.plan.uses_cuda(torch.cuda.device_count()) else "cpu"))
        self.recorder = recorder or Recorder()
        self.group: Group | None = None
        _settle(self.device, self.plan.threads, job.reproducible)
        self.learner = learner or Learner(job, self.device)
        self.feed = Feed(job, self.device)
        self.samples = self.feed.samples
        self.total_steps = job.total_steps(self.samples)
        setting = Setting(learner=self.learner, feed=self.feed, recorder=self.recorder, tables=tables, audit=audit)
        self.steps = (steps or steps_for(self.plan))(setting, self.plan)

    @property
    def model(self) -> nn.Module:
        """The live model; of a part of one, what others hold is empty."""
        return self.learner.model

    @property
    def optimizer(self) -> Optimizer:
        """The live optimizer."""
        return self.learner.optimizer

    @property
    def scheduler(self) -> LRScheduler | None:
        """The live schedule of learning rates."""
        return self.learner.scheduler

    @property
    def step(self) -> int:
        """Steps done."""
        return self.learner.step

    @step.setter
    def step(self, value: int) -> None:
        self.learner.step = value

    @property
    def rank(self) -> int:
        """This worker's rank in the gang; 0 where there is none."""
        return self.group.rank if self.group is not None else 0

    @property
    def block(self) -> Block:
        """The micro-batches of every batch that this worker computes."""
        self._join_alone()
        return self.steps.block

    def __iter__(self) -> Iterator[Step]:
        """Train from wherever the trainer stands to the end of the job."""
        while self.step < self.total_steps:
            yield from self.train_round()

    def join(
        self,
        group: Group | None,
        on_wait: Callable[[bool], None] = lambda waits: None,
        cuts: Sequence[int] | None = None,
    ) -> str:
        """Take this place in a gang, leaving the one before; None is a gang of one.

        Where the plan's layout divides the model, that can be done once only, and before a state is restored.

        Args:
            on_wait: called with True when the worker has to wait for others, and with False when that is over.
            cuts: where the stages of a pipeline begin, if that was found before.

        Returns:
            How gradients travel and why, in words.

        Raises:
            UserError: the model cannot be divided so.
        """
        self.leave()
        self.group = group
        return self.steps.join(group, self.plan, on_wait, cuts)

    def leave(self) -> None:
        """Leave the gang, keeping the state at the last step boundary."""
        self.steps.leave()

    def train_round(
        self, flag: Callable[[], int] = lambda: 0, mark: Callable[[], None] = lambda: None
    ) -> Sequence[Step]:
        """The steps up to the next on which the gang agrees as a whole: one, unless the plan's `sync` says otherwise.

        Args:
            flag: as for `train_step`.
            mark: called after every step.
        """
        steps: list[Step] = []
        while not steps or not (self.steps.agrees_after(self.step) or self.step == self.total_steps):
            steps.append(self.train_step(flag))
            mark()
        figures = Round([s.loss for s in steps], [s.grad_norm for s in steps], [s.flags for s in steps])
        agreed = self.steps.agree(figures)
        rows = zip(steps, agreed.losses, agreed.norms, agreed.flags, strict=True)
        return [step._replace(loss=loss, grad_norm=norm, flags=flags) for step, loss, norm, flags in rows]

    def train_step(self, flag: Callable[[], int] = lambda: 0) -> Step:
        """Compute, exchange and apply one step. Of a round of several, `train_round` does the rest.

        Args:
            flag: asked once, just before the exchange; every worker learns every worker's answer. A gang agrees
                with it on the step after which to pause.

        Raises:
            PeerLostError: a worker was lost; the state is the one before the step.
            NotFiniteError: the loss is NaN or infinite; the state is the one before the step.
            UserError: the job's functions misbehave.
        """
        self._join_alone()
        finished = self.steps.compute(flag)
        learning_rate = self.learner.learning_rate
        try:
            same.check(finished.looks)
            check_finite(finished.losses, self.steps.frame.start, self.step + 1)
            self.recorder.enter("optimizer")
            grad_norm = self.steps.apply(finished)
        except UserError:
            self.steps.abandon()
            raise
        return self._committed(finished, grad_norm, learning_rate)

    def evaluate(self) -> dict[str, float]:
        """The loss and the metrics on the evaluation data, the same on every worker.

        Batches are shared out between the workers of the gang; their means are weighted by sample count and summed
        exactly, so the figures do not depend on how many workers there are.

        Raises:
            JobError: the job has no evaluation.
            PeerLostError: a worker was lost.
        """
        self.recorder.enter("evaluate")
        self.steps.arrive()
        return evaluate(self.job, self.feed, self.model, self.steps, self.group, self.recorder.enter)

    def capture(self) -> dict[str, Any]:
        """The whole state, as a tree that looks at the live tensors. Where the model is divided all workers must call
        it, and it is put together on rank 0; on the others it is nothing but the step."""
        return self.steps.capture()

    def restore(self, state: dict[str, Any], keep: bool = False) -> None:
        """Put a captured state back, or this worker's part of it.

        Args:
            keep: the state is nobody else's: the optimizer may go on with its tensors instead of copies.

        Raises:
            UserError: it is another model's.
        """
        self.steps.restore(state, keep)

    def weights_sha256(self) -> str:
        """The digest of the weights that `result.json` carries. Where the model is divided all workers must call it."""
        return self.steps.weights_sha256()

    def _join_alone(self) -> None:
        """Have a gang of one, if there is none."""
        if not self.steps.joined:
            self.join(None)

    def _committed(self, finished: Finished, grad_norm: float | None, learning_rate: float) -> Step:
        """Count the step that was just applied."""
        epoch, first = divmod(self.step * self.job.batch_size, self.samples)
        self.step += 1
        last = first + self.job.batch_size - 1
        loss = math.fsum(finished.losses) / len(finished.losses)
        return Step(self.step, epoch, first, last, loss, grad_norm, learning_rate, tuple(finished.flags))


def _settle(device: torch.device, threads: int, reproducible: bool) -> None:
    """Set what fixes the bits in this process."""
    if device.type == "cuda":
        torch.cuda.set_device(device.index or 0)
    torch.set_num_threads(threads)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS is not deterministic
    if reproducible and (device.type == "cuda" or threads > 1):
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
