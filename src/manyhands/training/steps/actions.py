"""What the stages of a pipeline ask for while they compute a step (pipeline.stage.Task): data, losses, gradients."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from torch import Tensor

from manyhands.parallel.parts import Placed
from manyhands.tensor_parallel import whole
from manyhands.training.losses import check_loss
from manyhands.training.steps.brake import Brake
from manyhands.training.steps.computer import Setting
from manyhands.training.steps.part_gradients import PartGradients


class Actions:
    """One worker's side of the actions of its stages.

    Args:
        setting: what is computed with.
        placed: the model.
        gradients: take what backward passes leave.
        brake: stretches actions.

    Attributes:
        losses: of the step's micro-batches, where the last stage is.
    """

    def __init__(self, setting: Setting, placed: Placed, gradients: PartGradients, brake: Brake) -> None:
        self._job, self._learner = setting.learner.job, setting.learner
        self._feed, self._recorder = setting.feed, setting.recorder
        self._placed, self._gradients, self._brake = placed, gradients, brake
        self._tensor_group = placed.mesh.layout.tp > 1
        self.losses: list[float] = []
        self._targets: dict[tuple[int, int], Any] = {}
        """Targets by stage and micro-batch, from the beginning of its forward pass to its end."""
        self._within = ExitStack()

    def begin_step(self) -> None:
        """A step comes next."""
        self.losses, self._targets = [], {}
        self._feed.forget(self._learner.step)
        for sharding in self._placed.shardings.values():
            sharding.before_step()

    def begin(self, stage: int, micro_batch: int) -> Any:
        index = self._gradients.block.start + micro_batch
        self._recorder.enter("data", index)
        self._placed.mesh.gang.check()
        inputs, self._targets[stage, micro_batch] = self._feed.micro_batch(self._learner.step, index)
        self._gradients.before_forward(stage)
        self._within = self._placed.computing()
        return inputs

    def loss(self, stage: int, micro_batch: int, output: Any) -> Tensor:
        loss = self._job.loss(output, self._targets[stage, micro_batch])
        if self._tensor_group:
            loss = whole(loss)
        check_loss(loss)
        self.losses.append(float(loss.detach()))
        return loss / self._job.micro_batches

    def sent(self, values: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(whole(list(values))) if self._tensor_group else tuple(values)

    def forward_done(self, stage: int, micro_batch: int) -> None:
        self._within.close()
        del self._targets[stage, micro_batch]
        self._gradients.after_forward(stage, micro_batch)

    def before_backward(self, stage: int, micro_batch: int) -> tuple[list[Tensor], list[Tensor]]:
        sharding = self._placed.shardings.get(stage)
        if sharding is not None:
            sharding.before_backward(last=micro_batch == self._gradients.block.size - 1)
        return self._gradients.before_backward(stage, micro_batch)

    def gradients(self, stage: int, micro_batch: int) -> None:
        self._gradients.after_backward(stage, micro_batch)

    def reduce(self, stage: int) -> None:
        """Nothing: gradients were taken micro-batch by micro-batch."""

    def enter(self, phase: str, micro_batch: int = -1) -> None:
        if phase == "idle":
            self._brake.let_go()
        self._recorder.enter(phase, self._gradients.block.start + micro_batch if micro_batch >= 0 else -1)
        if phase != "idle":
            self._brake.hold(phase)
