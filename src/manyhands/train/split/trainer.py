"""One worker's training loop where the model is split: pipeline stages, tensor shards, and shares of the state.

The loop is train/trainer.py's; what differs is what a step is made of. A table (pipeline/) says what this worker does
for which stage and micro-batch, a model that is not cut being a pipeline of one stage; gradients are folded per stage
(gradients.py); and the state is put together from what all workers hold, in the form that any other layout can read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from manyhands.errors import UserError
from manyhands.job import Job
from manyhands.parallel.call import call
from manyhands.parallel.mesh import Mesh
from manyhands.parallel.parts import Names, Part
from manyhands.pipeline.randomness import Randomness, other_generators
from manyhands.pipeline.runtime import Pipeline
from manyhands.pipeline.stage import Stage
from manyhands.plan import Plan
from manyhands.state import tree_sha256
from manyhands.tables import tables_of
from manyhands.tensor_parallel import whole
from manyhands.timeline import Recorder
from manyhands.train.feed import Batch, clone
from manyhands.train.passing import Passing, route
from manyhands.train.split import norms
from manyhands.train.split.construct import construct
from manyhands.train.split.evaluate import evaluate
from manyhands.train.split.gradients import SplitGradients
from manyhands.train.split.state import gather, take
from manyhands.train.trainer import Step, Trainer, check_loss
from manyhands.transport import Group


class SplitTrainer(Trainer):
    """Trains this worker's part of a job whose plan has a split layout. Alone it can do nothing: `join` makes its
    part."""

    def __init__(
        self,
        job: Job,
        plan: Plan | None = None,
        *,
        device: str | None = None,
        recorder: Recorder | None = None,
        tables: Path | None = Path("tables"),
    ) -> None:
        super().__init__(job, plan, device=device, recorder=recorder, tables=tables)
        if found := tables_of(self.model):
            raise UserError(
                f"the model has tables ({', '.join(found)}), whose rows live on servers, and layout {self.plan.layout} "
                "splits the model. Use --sync server without a layout."
            )
        self.layout = self.plan.layout
        self.names = Names(self.model)
        self.cuts: tuple[int, ...] = ()
        self._split: SplitGradients | None = None
        self._losses: list[float] = []
        self._waiting: dict[tuple[int, int], Any] = {}
        self._first: Batch | None = None
        """The job's first micro-batch, while the model is looked at."""
        self._draws_elsewhere = False
        """Whether the model draws from Python's or NumPy's generators, as far as was seen."""

    def join(
        self,
        group: Group | None,
        on_wait: Callable[[bool], None] = lambda waits: None,
        cuts: Sequence[int] | None = None,
    ) -> str:
        """Take this place in the gang and keep this place's part of the model. Once only.

        Args:
            cuts: where the stages begin, if that was found before.

        Raises:
            UserError: the model cannot be split so.
        """
        assert group is not None and group.world == self.layout.workers
        self.group, self.rank = group, group.rank
        self.place = mesh = Mesh(self.layout, group, self.device)
        try:
            if self.layout.pp > 1 or self.layout.tp > 1:  # by it the model is looked at
                self._first = self.feed.first(group, mine=mesh.replica == 0)
            built = construct(self, mesh, cuts)
        except BaseException:
            mesh.close()
            raise
        self._first = None
        there = route(self.layout, built.table.placement, self.rank)
        self.feed.pass_on(Passing(group, there, self.device), uses=len(built.parts))
        self._randomness = Randomness(self.device, others=self._draws_elsewhere)
        self.cuts, self._built, self._handles = built.cuts, built, built.handles
        table = built.table
        pipe = mesh.process_group("pp") if self.layout.pp > 1 else None
        stages = [
            Stage(
                part.body,
                part.index,
                table.stages,
                pipe,
                self.device,
                self,
                self._randomness,
                self._weights(part),
            )
            for part in built.parts
        ]
        self._pipeline = Pipeline(stages, table)
        self._split = SplitGradients(self.model, built, self.job, self.plan.collective, on_wait)
        return self._split.exchanged

    def leave(self) -> None:
        if self._split is not None:
            self._split = None
            self.place.close()

    def train_step(self, flag: Callable[[], int] = lambda: 0) -> Step:
        gradients = self._split
        assert gradients is not None
        gradients.begin_step()
        self.feed.forget(self.step)
        self._losses, self._waiting = [], {}
        for sharding in self._built.shardings.values():
            sharding.before_step()
        try:
            self._pipeline.step()
            self.recorder.enter("exchange")
            finished = gradients.finish(self._losses if self.place.shard == 0 else [], flag())
        except BaseException:
            gradients.abandon()
            raise
        self._check_finite(finished.losses, gradients)
        self.recorder.enter("optimizer")
        learning_rate = float(self.optimizer.param_groups[0]["lr"])
        grad_norm = self._clip_parts(gradients)
        self._update(finished.losses)
        gradients.share_ties()
        for sharding in self._built.shardings.values():
            sharding.after_step()
        return self._committed(finished, grad_norm, learning_rate)

    def evaluate(self) -> dict[str, float]:
        return evaluate(self)

    def infer(self, inputs: Any) -> Any:
        """The model's output, where its last stage is; None elsewhere. Within `computing`."""
        output = self._pipeline.infer(inputs)
        return whole(output) if self.layout.tp > 1 else output

    def computing(self) -> ExitStack:
        """Around forward and loss."""
        stack = ExitStack()
        stack.enter_context(self._autocast())
        stack.enter_context(self._built.context())
        return stack

    # What the stages ask for (pipeline.stage.Task)

    def begin(self, stage: int, micro_batch: int) -> Any:
        assert self._split is not None
        index = self._split.block.start + micro_batch
        inputs, self._waiting[stage, micro_batch] = self._fetch(index)
        self._split.before_forward(stage)
        self._within = self.computing()
        return inputs

    def loss(self, stage: int, micro_batch: int, output: Any) -> Tensor:
        loss = self.job.loss(output, self._waiting[stage, micro_batch])
        if self.layout.tp > 1:
            loss = whole(loss)
        check_loss(loss)
        self._losses.append(float(loss.detach()))
        return loss / self.job.micro_batches

    def sent(self, values: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(whole(list(values))) if self.layout.tp > 1 else tuple(values)

    def forward_done(self, stage: int, micro_batch: int) -> None:
        assert self._split is not None
        self._within.close()
        del self._waiting[stage, micro_batch]
        self._split.after_forward(stage, micro_batch)

    def before_backward(self, stage: int, micro_batch: int) -> tuple[list[Tensor], list[Tensor]]:
        assert self._split is not None
        if stage in self._built.shardings:
            self._built.shardings[stage].before_backward(last=micro_batch == self._split.block.size - 1)
        return self._split.before_backward(stage, micro_batch)

    def gradients(self, stage: int, micro_batch: int) -> None:
        assert self._split is not None
        self._split.after_backward(stage, micro_batch)

    def reduce(self, stage: int) -> None:
        pass  # gradients were taken micro-batch by micro-batch

    def enter(self, phase: str, micro_batch: int = -1) -> None:
        assert self._split is not None
        self.recorder.enter(phase, self._split.block.start + micro_batch if micro_batch >= 0 else -1)

    # State

    def capture(self) -> dict[str, Any]:
        """The whole state, put together on rank 0; on the others nothing but the step. All workers must call it."""
        return gather(self, self.place, self._built)

    def restore(self, state: dict[str, Any], keep: bool = False) -> None:
        """Take this worker's part of a whole state. Every worker has the whole one at hand."""
        self.step = take(self, self._built, state)

    def weights_sha256(self) -> str:
        """Of the whole model; all workers must call it, and all learn it."""
        whole = self.capture()
        text = tree_sha256(whole["model"]) if self.rank == 0 else ""
        assert self.group is not None
        return self.group.all_gather_bytes(text.encode())[0].decode()

    # Help

    def _weights(self, part: Part) -> Callable[[], list[nn.Parameter]]:
        if self.layout.shard or self.layout.tp > 1:  # FSDP and tensor parallelism exchange them
            return partial(part.weights, self.model)
        weights = part.weights(self.model)
        return lambda: weights

    def _clip_parts(self, gradients: SplitGradients) -> float | None:
        """As `_clip`, over what all workers hold: each element once."""
        if self.job.clip_grad_norm is None:
            return None
        norm = norms.total(self.place, self._built, self.names, gradients.norms, self.job.reproducible)
        self._check_norm(float(norm), gradients)
        params = [handle for handle in self._handles.values() if handle.grad is not None]
        if params:
            torch.nn.utils.clip_grads_with_norm_(params, self.job.clip_grad_norm, norm.to(self.device))
        return float(norm)

    def sample(self) -> Callable[[nn.Module], Any]:
        """The first micro-batch's way through the whole model, for those who look at it or time it."""
        inputs, self._sample_targets = clone(self._first) if self._first else self._fetch(0)

        def run(model: nn.Module) -> Any:
            before = other_generators()
            try:
                with self._autocast():
                    return call(model, inputs)
            finally:
                self._draws_elsewhere |= other_generators() != before

        return run

    def sample_loss(self, output: Any) -> Tensor:
        """The loss of what `sample` gives."""
        return self.job.loss(output, self._sample_targets)
