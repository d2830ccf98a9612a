"""A step on a worker that has the whole model: its block of the micro-batches, summed as the policy says (law 1)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from manyhands.collective import Block
from manyhands.parallel.call import call
from manyhands.plan import Plan
from manyhands.state import capture, restore, weights_sha256
from manyhands.sync import Finished, OnWait, Policy, Round, Task
from manyhands.tables import tables_of
from manyhands.training.evaluate import Share
from manyhands.training.losses import check_loss
from manyhands.training.steps.audit import Found
from manyhands.training.steps.brake import Brake
from manyhands.training.steps.computer import Setting
from manyhands.training.steps.gradients import Gradients
from manyhands.training.steps.looks import Looks
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
        self._looks: Looks | None = None
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
        return self._looks.agreed if self._looks is not None else -1

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
        self._looks = Looks(self._learner, policy, group, self._every, self._again)
        return policy.described

    def leave(self) -> None:
        self._tables.close(self._learner.step)
        if self._gradients is not None:
            self._gradients.close()
            self.policy.close()
            self._gradients = None

    # A step

    def compute(self, flag: Callable[[], int]) -> Finished:
        gradients, looks = self._ready(), self._looks
        assert looks is not None
        began = time.perf_counter()
        self.policy.before_forward()
        gradients.begin_step()
        try:
            self._tables.begin_step()
            watched = gradients.watch(looks.begin(self.blocks))
            losses, seconds = self._block(gradients)
            first = gradients.block.start
            own = {index: {"the loss": losses[index - first].hex(), **found} for index, found in watched.items()}
            told = looks.tell(own, self._took)
            self._recorder.enter("exchange")
            self._tables.finish()
            finished = gradients.finish(losses, flag(), seconds, self._took, told)
            looks.judge(finished.looks, self._give_up)
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

    def _give_up(self) -> None:
        """Give the step up, and begin it again."""
        self._ready().abandon()
        self._ready().begin_step()

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
        if self._looks is not None:
            self._looks.soon()
        self.policy.arrive()
        return self.policy.capture(capture(learner.model, learner.optimizer, learner.scheduler, learner.step))

    def restore(self, state: dict[str, Any], keep: bool) -> None:
        learner = self._learner
        learner.step = restore(state, learner.model, learner.optimizer, learner.scheduler, keep)
        self.kept = state.get("sync", {})

    def weights_sha256(self) -> str:
        self.policy.arrive()
        return weights_sha256(self._learner.model)
