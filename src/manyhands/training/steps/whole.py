"""A step on a worker that has the whole model: its block of the micro-batches, summed as the policy says (law 1)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from manyhands.collective import Block
from manyhands.parallel.call import call
from manyhands.plan import Plan
from manyhands.state import capture, restore, weights_sha256
from manyhands.sync import AllReduce, Finished, OnWait, Policy, Round, Task
from manyhands.tables import tables_of
from manyhands.training.evaluate import Share
from manyhands.training.losses import check_loss
from manyhands.training.steps import same
from manyhands.training.steps.alike import Alike
from manyhands.training.steps.audit import Audit, Found
from manyhands.training.steps.brake import Brake
from manyhands.training.steps.computer import Setting
from manyhands.training.steps.gradients import Gradients
from manyhands.training.steps.policies import make_policy
from manyhands.training.steps.tables import Tables
from manyhands.training.steps.unmoved import Unmoved
from manyhands.transport import Group


class Whole:
    """Computes steps of a whole model, as `StepComputer` says.

    Args:
        setting: what it computes with.
        plan: the first one; joining brings others.

    Attributes:
        kept: what the policy is to take up when it begins.
        policy: when replicas agree.
    """

    cuts: tuple[int, ...] = ()

    def __init__(self, setting: Setting, plan: Plan) -> None:
        self._learner, self._feed, self._recorder = setting.learner, setting.feed, setting.recorder
        self._folder, self._every = setting.tables, setting.audit
        job, model = self._learner.job, self._learner.model
        self._call: nn.Module = torch.compile(model) if job.compile else model  # type: ignore[assignment]
        self.policy: Policy = Policy(Task(job.micro_batches, job.reproducible), None)
        self.kept: dict[str, Any] = {}
        self._group: Group | None = None
        self._brake = Brake(1.0)
        self._tables = Tables({}, self.policy, self._folder, 0)
        self._gradients: Gradients | None = None
        self._unmoved: Unmoved | None = None
        self._alike: Alike | None = None
        self._audit: Audit | None = None
        self._took = 0.0
        """Seconds that the last step took."""

    # The gang

    @property
    def joined(self) -> bool:
        return self._gradients is not None

    @property
    def blocks(self) -> Sequence[Block]:
        return self.policy.blocks

    @property
    def block(self) -> Block:
        return self._ready().block

    @property
    def frame(self) -> Block:
        return self.policy.frame

    @property
    def agreed(self) -> int:
        return self._alike.agreed if self._alike is not None else -1

    def join(self, group: Group | None, plan: Plan, on_wait: OnWait, cuts: Sequence[int] | None) -> str:
        policy = make_policy(self._learner.job, plan, group, on_wait)
        return self.follow(policy, plan.slowness(group.rank if group else 0), group)

    def follow(self, policy: Policy, slowness: float = 1.0, group: Group | None = None) -> str:
        """Train under this policy from now on. Returns how gradients travel and why, in words."""
        self._group, self.policy, self._brake = group, policy, Brake(slowness)
        policy.restore(self._learner, self.kept)
        self._tables = Tables(tables_of(self._learner.model), policy, self._folder, self._learner.step)
        self._gradients = Gradients(self._learner.model, policy)
        several, model = policy.workers > 1, self._learner.model
        self._unmoved = Unmoved(model, moves=policy.brings_weights) if several else None
        alike = isinstance(policy, AllReduce) and policy.workers > 1 and self._learner.job.reproducible
        self._alike = Alike(self._learner) if alike else None
        audits = alike and self._every > 0
        self._audit = Audit(self._learner.job.seed, self._every, policy.rank, self._again) if audits else None
        return policy.described

    def leave(self) -> None:
        self._tables.close(self._learner.step)
        if self._gradients is not None:
            self._gradients.close()
            self.policy.close()
            self._gradients = None

    # A step

    def compute(self, flag: Callable[[], int]) -> Finished:
        gradients = self._ready()
        began = time.perf_counter()
        self.policy.before_forward()
        gradients.begin_step()
        try:
            self._tables.begin_step()
            watched = gradients.watch(self._audit.begin(self._learner.step, self.blocks) if self._audit else ())
            losses, seconds = self._block(gradients)
            look = self._look(losses, watched)
            self._recorder.enter("exchange")
            self._tables.finish()
            finished = gradients.finish(losses, flag(), seconds, self._took, look)
            self._judge(gradients, finished)
            self._took = time.perf_counter() - began
        except BaseException:
            gradients.abandon()
            raise
        return finished

    def apply(self, finished: Finished) -> float | None:
        norm = self.policy.update(self._learner, finished)
        self._tables.apply()
        if self.policy.learn(finished):
            self._ready().close()
            self._gradients = Gradients(self._learner.model, self.policy)
        return norm

    def abandon(self) -> None:
        self._ready().abandon()

    def agrees_after(self, step: int) -> bool:
        return self.policy.agrees_after(step)

    def agree(self, figures: Round) -> Round:
        return self.policy.agree(self._learner, figures)

    def arrive(self) -> None:
        self.policy.arrive()

    def _block(self, gradients: Gradients) -> tuple[list[float], float | None]:
        """Compute this worker's micro-batches: their losses, and the seconds that one took."""
        began = time.perf_counter()
        losses = [self._micro_batch(gradients, index) for index in range(*gradients.block)]
        values = [float(loss) for loss in losses]
        return values, (time.perf_counter() - began) / len(values) if values else None

    def _micro_batch(self, gradients: Gradients, index: int) -> Tensor:
        """A micro-batch of this worker's own; its loss, detached."""
        self._brake.hold()
        loss = self._pass(index, lambda: gradients.begin_micro_batch(index))
        gradients.end_micro_batch(index)
        self._tables.end_micro_batch(index)
        self._brake.let_go()
        return loss

    def _pass(self, index: int, begin: Callable[[], None] = lambda: None) -> Tensor:
        """Forward and backward of one micro-batch; its loss, detached."""
        learner, enter = self._learner, self._recorder.enter
        enter("data", index)
        if self._group is not None:
            self._group.check()
        inputs, targets = self._feed.micro_batch(learner.step, index)
        begin()
        enter("forward", index)
        if self._unmoved is not None:
            self._unmoved.before()
        with learner.autocast():
            loss = learner.job.loss(call(self._call, inputs), targets)
        if self._unmoved is not None:
            self._unmoved.after()
        check_loss(loss)
        enter("backward", index)
        (loss / self.policy.frame.size).backward()
        return loss.detach()

    # Whether replicas are alike

    def _again(self, index: int) -> Found:
        """What a micro-batch comes to that is computed for comparison."""
        loss = self._pass(index)
        return {"the loss": float(loss).hex(), **self._ready().take_away(index)}

    def _look(self, losses: list[float], watched: Mapping[int, Mapping[str, int]]) -> dict[str, Any]:
        """What this worker tells the others, for them to compare."""
        look = same.rates(self._learner.optimizer) if self.policy.workers > 1 else {}
        if self._alike is None:
            return look
        look |= self._alike.look(self._took)
        if self._audit is not None:
            first = self._ready().block.start
            own = {index: {"the loss": losses[index - first].hex(), **found} for index, found in watched.items()}
            look |= self._audit.look(own)
        return look

    def _judge(self, gradients: Gradients, finished: Finished) -> None:
        """
        Raises:
            DeviationError: replicas do not hold, or do not compute, the same.
        """
        if self._alike is None or self._group is None:
            return
        alike, gather = self._alike, self._group.all_gather_bytes
        alike.judge(finished.looks, gather)

        def give_up() -> None:
            gradients.abandon()
            gradients.begin_step()
            alike.compare(gather)

        if self._audit is not None:
            self._audit.judge(finished.looks, gather, give_up)

    def _ready(self) -> Gradients:
        assert self._gradients is not None, "it has joined no gang"
        return self._gradients

    # Evaluation

    @property
    def share(self) -> Share:
        return Share(self._group.rank if self._group else 0, self.policy.workers)

    def room(self, samples: int) -> int | None:
        return samples

    def computing(self) -> AbstractContextManager[Any]:
        return self._learner.autocast()

    def infer(self, inputs: Any) -> Any:
        with self.computing():
            return call(self._call, inputs)

    # State

    def capture(self) -> dict[str, Any]:
        learner = self._learner
        self._tables.keep(learner.step)  # before others can have what this process gives
        if self._alike is not None:
            self._alike.soon()
        self.policy.arrive()
        return self.policy.capture(capture(learner.model, learner.optimizer, learner.scheduler, learner.step))

    def restore(self, state: dict[str, Any], keep: bool) -> None:
        learner = self._learner
        learner.step = restore(state, learner.model, learner.optimizer, learner.scheduler, keep)
        self.kept = state.get("sync", {})

    def weights_sha256(self) -> str:
        self.policy.arrive()
        return weights_sha256(self._learner.model)
