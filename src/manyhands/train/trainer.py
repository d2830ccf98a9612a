"""One worker's training loop: law 1 of the design, step by step.

    for step in Trainer(job):
        print(step.step, step.loss)

A `Trainer` owns the model, the optimizer and the data of one worker. Alone it trains the whole job in this
process; in a gang (`join`) it computes its block of every batch and agrees with the others on the sums.
Either way its weights after step s are the same, bit for bit.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from manyhands.collective import Block
from manyhands.errors import JobError, UserError
from manyhands.job import Job
from manyhands.parallel.call import call
from manyhands.plan import Plan
from manyhands.state import capture, restore, weights_sha256
from manyhands.sync import Finished, Policy, Round, Task
from manyhands.tables import tables_of
from manyhands.timeline import Recorder
from manyhands.train.brake import Brake
from manyhands.train.evaluate import Share, evaluate
from manyhands.train.feed import Batch, Feed
from manyhands.train.gradients import Gradients
from manyhands.train.policies import make_policy
from manyhands.train.seeds import seed_everything, stream_seed
from manyhands.train.tables import Tables
from manyhands.transport import Group


class Step(NamedTuple):
    """A committed step."""

    step: int
    """Counted from 1: after it, `step` steps are done."""
    epoch: int
    """The epoch of its first sample."""
    first: int
    """Position of its first sample in that epoch's permutation."""
    last: int
    """Position of its last sample, counted from the same epoch's start: at or over the number of samples, it
    lies in the next epoch's permutation."""
    loss: float
    """Mean over the micro-batches."""
    grad_norm: float | None
    """Norm of the whole gradient before clipping; None if the job does not clip."""
    lr: float
    """Learning rate of the first parameter group during the step."""
    flags: tuple[int, ...]
    """What each process of the gang passed as `flag`, by rank; of a round's steps all but the last have none."""


class Abandoning(Protocol):
    """What can undo a step that could not be finished."""

    def abandon(self) -> None: ...


class NotFiniteError(UserError):
    """The loss became NaN or infinite. The state is the one before the step."""


class Trainer:
    """Trains a job on one worker.

    Args:
        job: what to train.
        plan: threads and device; `workers` is for engines and plays no part here.
        device: overrides the plan's device, for example `cuda:1`.
        recorder: measures the phases.
        tables: the folder of the files that hold the rows of the model's tables, if it has some.

    Attributes:
        model, optimizer, scheduler: the live objects.
        step: steps done.
        total_steps: steps of the whole job.

    Raises:
        JobError: what the job's functions return is not what they should.
    """

    def __init__(
        self,
        job: Job,
        plan: Plan | None = None,
        *,
        device: str | None = None,
        recorder: Recorder | None = None,
        tables: Path | None = Path("tables"),
    ) -> None:
        self.job = job
        self._folder = tables
        self.plan = plan or Plan()
        self.device = torch.device(device or ("cuda" if self.plan.uses_cuda(torch.cuda.device_count()) else "cpu"))
        self.recorder = recorder or Recorder()
        self.step = 0
        self.group: Group | None = None
        self.rank = 0
        self.cuts: tuple[int, ...] = ()
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device.index or 0)
        torch.set_num_threads(self.plan.threads)
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS is not deterministic
        if job.reproducible and (self.device.type == "cuda" or self.plan.threads > 1):
            torch.use_deterministic_algorithms(True)
            torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        seed_everything(stream_seed(job.seed, "model"), self.device)
        self.model = _build_model(job).to(self.device)
        self._call: nn.Module = torch.compile(self.model) if job.compile else self.model  # type: ignore[assignment]
        self.optimizer = _build("optimizer", job.optimizer, torch.optim.Optimizer, self.model.parameters())
        if isinstance(self.optimizer, torch.optim.LBFGS):
            raise JobError("optimizer() returned an LBFGS, which computes the loss several times a step. Use another.")
        self.scheduler = (
            _build("scheduler", job.scheduler, torch.optim.lr_scheduler.LRScheduler, self.optimizer)
            if job.scheduler
            else None
        )
        self.feed = Feed(job, self.device)
        self.samples = self.feed.samples
        self.total_steps = job.total_steps(self.samples)
        self.policy: Policy = Policy(Task(job.micro_batches, job.reproducible), None)
        self._tables = Tables({}, self.policy, self._folder, self.step)
        self._brake = Brake(1.0)
        self._took = 0.0
        """Seconds of the last step."""
        self._gradients: Gradients | None = None
        self.kept: dict[str, Any] = {}
        """What the policy is to take up when it begins."""

    def __iter__(self) -> Iterator[Step]:
        """Train from wherever the trainer stands to the end of the job."""
        while self.step < self.total_steps:
            yield from self.train_round()

    def join(self, group: Group | None, on_wait: Callable[[bool], None] = lambda waits: None) -> str:
        """Take this place in a gang, leaving the one before; None is a gang of one.

        Args:
            on_wait: called with True when the worker has to wait for others, and with False when that is over.

        Returns:
            How gradients travel and why, in words.
        """
        self.leave()
        self.group = group
        self.rank = group.rank if group else 0
        return self.follow(make_policy(self.job, self.plan, group, on_wait))

    def follow(self, policy: Policy) -> str:
        """Train under this policy from now on. Returns how gradients travel and why, in words."""
        self.policy = policy
        self._brake = Brake(self.plan.slowness(self.rank))
        policy.restore(self, self.kept)
        self._tables = Tables(tables_of(self.model), policy, self._folder, self.step)
        self._gradients = Gradients(self.model, policy)
        return policy.described

    def leave(self) -> None:
        """Leave the gang, keeping the state at the last step boundary."""
        self._tables.close(self.step)
        if self._gradients is not None:
            self._gradients.close()
            self.policy.close()
            self._gradients = None

    @property
    def block(self) -> Block:
        """The micro-batches of every batch that this worker computes."""
        return self._ready().block

    def train_round(
        self, flag: Callable[[], int] = lambda: 0, mark: Callable[[], None] = lambda: None
    ) -> Sequence[Step]:
        """The steps up to the next on which the gang agrees as a whole: one, unless the plan's `sync` says otherwise.

        Args:
            flag: as for `train_step`.
            mark: called after every step.
        """
        steps = []
        while not steps or not (self.policy.agrees_after(self.step) or self.step == self.total_steps):
            steps.append(self.train_step(flag))
            mark()
        figures = Round([s.loss for s in steps], [s.grad_norm for s in steps], [s.flags for s in steps])
        agreed = self.policy.agree(self, figures)
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
        gradients = self._ready()
        began = time.perf_counter()
        self.policy.before_forward()
        gradients.begin_step()
        try:
            self._tables.begin_step()
            losses, seconds = self._block(gradients)
            self.recorder.enter("exchange")
            self._tables.finish()
            finished = gradients.finish(losses, flag(), seconds, self._took)
            self._took = time.perf_counter() - began
        except BaseException:
            gradients.abandon()
            raise
        self._check_finite(finished.losses, gradients)
        self.recorder.enter("optimizer")
        learning_rate = float(self.optimizer.param_groups[0]["lr"])
        grad_norm = self.policy.update(self, finished)
        self._tables.apply()
        if self.policy.learn(finished):
            gradients.close()
            self._gradients = Gradients(self.model, self.policy)
        return self._committed(finished, grad_norm, learning_rate)

    def apply(self, losses: Sequence[float]) -> float | None:
        """Apply the gradient that lies in `.grad`. Returns its norm, if the job clips it."""
        grad_norm = self._clip()
        self._update(losses)
        return grad_norm

    def check_norm(self, norm: float) -> None:
        """Raise `NotFiniteError` if the gradient's norm is not finite."""
        self._check_norm(norm, self._ready())

    def _check_finite(self, losses: list[float], gradients: Abandoning) -> None:
        for index, loss in enumerate(losses):
            if not math.isfinite(loss):
                index += self.policy.frame.start
                gradients.abandon()
                raise NotFiniteError(
                    f"the loss became {loss} at step {self.step + 1}, micro-batch {index}. Lower the learning rate, "
                    "set clip_grad_norm, or check the data of that batch."
                )

    def _committed(self, finished: Finished, grad_norm: float | None, learning_rate: float) -> Step:
        """Count the step that was just applied."""
        epoch, first = divmod(self.step * self.job.batch_size, self.samples)
        self.step += 1
        last = first + self.job.batch_size - 1
        loss = math.fsum(finished.losses) / len(finished.losses)
        return Step(self.step, epoch, first, last, loss, grad_norm, learning_rate, tuple(finished.flags))

    def evaluate(self) -> dict[str, float]:
        """The loss and the metrics on the evaluation data, the same on every worker.

        Batches are shared out between the workers of the gang; their means are weighted by sample count and summed
        exactly, so the figures do not depend on how many workers there are.

        Raises:
            JobError: the job has no evaluation.
            PeerLostError: a worker was lost.
        """
        self.recorder.enter("evaluate")
        self.policy.arrive()
        return evaluate(self.job, self.feed, self, self.group, self.recorder.enter)

    # What evaluation asks for (evaluate.Inferring)

    @property
    def share(self) -> Share:
        return Share(self.rank, self.policy.workers)

    def room(self, samples: int) -> int | None:
        return samples

    def computing(self) -> AbstractContextManager[Any]:
        return self._autocast()

    def infer(self, inputs: Any) -> Any:
        with self.computing():
            return call(self._call, inputs)

    def capture(self) -> dict[str, Any]:
        """The whole state, as a tree that looks at the live tensors."""
        self._tables.keep(self.step)  # before others can have what this process gives
        self.policy.arrive()
        return self.policy.capture(capture(self.model, self.optimizer, self.scheduler, self.step))

    def restore(self, state: dict[str, Any], keep: bool = False) -> None:
        """Put a captured state back.

        Args:
            keep: the state is nobody else's: the optimizer may go on with its tensors instead of copies.

        Raises:
            UserError: it is another model's.
        """
        self.step = restore(state, self.model, self.optimizer, self.scheduler, keep)
        self.kept = state.get("sync", {})

    def weights_sha256(self) -> str:
        """The digest of the weights that `result.json` carries."""
        self.policy.arrive()
        return weights_sha256(self.model)

    def _ready(self) -> Gradients:
        if self._gradients is None:
            self.join(None)
        assert self._gradients is not None
        return self._gradients

    def _block(self, gradients: Gradients) -> tuple[list[float], float | None]:
        """Compute this worker's micro-batches: their losses, and the seconds that one took."""
        began = time.perf_counter()
        losses = [self._micro_batch(gradients, index) for index in range(*gradients.block)]
        values = [float(loss) for loss in losses]
        return values, (time.perf_counter() - began) / len(values) if values else None

    def _micro_batch(self, gradients: Gradients, index: int) -> Tensor:
        """Forward and backward of one micro-batch; its loss, detached."""
        job, enter = self.job, self.recorder.enter
        self._brake.hold()
        inputs, targets = self._fetch(index)
        gradients.begin_micro_batch(index)
        enter("forward", index)
        with self._autocast():
            loss = job.loss(call(self._call, inputs), targets)
        check_loss(loss)
        enter("backward", index)
        (loss / self.policy.frame.size).backward()
        gradients.end_micro_batch(index)
        self._tables.end_micro_batch(index)
        self._brake.let_go()
        return loss.detach()

    def _fetch(self, index: int) -> Batch:
        """A micro-batch of this step. Leaves the generators where its forward pass begins."""
        self.recorder.enter("data", index)
        if self.group is not None:
            self.group.check()
        return self.feed.micro_batch(self.step, index)

    def _clip(self) -> float | None:
        """Clip the whole gradient. Returns its norm before; None if the job does not clip."""
        if self.job.clip_grad_norm is None:
            return None
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), self.job.clip_grad_norm))
        self.check_norm(norm)
        return norm

    def _check_norm(self, norm: float, gradients: Abandoning) -> None:
        if not math.isfinite(norm):
            gradients.abandon()
            raise NotFiniteError(
                f"the norm of the gradient became {norm} at step {self.step + 1}, though the loss is finite. Lower "
                "the learning rate, or look for a square root or logarithm of zero."
            )

    def _update(self, losses: Sequence[float]) -> None:
        """Apply the whole gradient, on every worker alike."""
        self.move()
        self.advance(losses)

    def move(self) -> None:
        """Have the optimizer apply the gradients."""
        seed_everything(stream_seed(self.job.seed, self.step, "update"), self.device)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def advance(self, losses: Sequence[float]) -> None:
        """Move the schedule on."""
        if isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            self.scheduler.step(math.fsum(losses) / len(losses))
        elif self.scheduler is not None:
            self.scheduler.step()

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.job.precision == "bf16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()


def _build_model(job: Job) -> nn.Module:
    model = job.model()
    if not isinstance(model, nn.Module):
        raise JobError(f"model() must return an nn.Module; it returned a {type(model).__name__}.")
    if not any(p.requires_grad for p in model.parameters()):
        raise JobError("the model has no parameter that requires a gradient: there is nothing to train.")
    return model


def _build(name: str, factory: Callable[[Any], Any], kind: type, argument: object) -> Any:
    built = factory(argument)
    if not isinstance(built, kind):
        raise JobError(f"{name}() must return a {kind.__name__}; it returned a {type(built).__name__}.")
    return built


def check_loss(loss: object) -> None:
    if not isinstance(loss, Tensor) or loss.ndim != 0:
        shape = f"tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise UserError(f"the loss must be a scalar tensor; it is a {shape}. Return its mean, for example loss.mean().")
    if not loss.requires_grad:
        raise UserError("the loss does not depend on any trainable parameter. Check for .detach() or no_grad.")
