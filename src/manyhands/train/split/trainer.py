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
from manyhands.parallel.build import Recipe, build
from manyhands.parallel.mesh import Mesh
from manyhands.parallel.parts import Part, Placed
from manyhands.parallel.traits import find_traits
from manyhands.pipeline.runtime import Pipeline
from manyhands.pipeline.stage import Stage
from manyhands.plan import Plan
from manyhands.state import tree_sha256
from manyhands.tables import tables_of
from manyhands.tensor_parallel import whole
from manyhands.timeline import Recorder
from manyhands.train.evaluate import Share, check, first, sizes
from manyhands.train.passing import Passing, route
from manyhands.train.split import norms
from manyhands.train.split.gradients import SplitGradients
from manyhands.train.split.state import gather, give_to, take
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
        self.cuts: tuple[int, ...] = ()
        self._split: SplitGradients | None = None
        self._losses: list[float] = []
        self._waiting: dict[tuple[int, int], Any] = {}

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
        mesh = Mesh(self.layout, group, self.device)
        try:
            placed = self._place(mesh, cuts)
        except BaseException:
            mesh.close()
            raise
        self._placed, self.cuts, self.model = placed, placed.cuts, placed.model
        there = route(self.layout, placed.table.placement, self.rank)
        self.feed.pass_on(Passing(group, there, self.device), uses=len(placed.parts))
        table = placed.table
        pipe = mesh.process_group("pp") if self.layout.pp > 1 else None
        stages = [
            Stage(
                part.body,
                part.index,
                table.stages,
                pipe,
                self.device,
                self,
                placed.randomness,
                self._weights(part),
            )
            for part in placed.parts
        ]
        self._pipeline = Pipeline(stages, table)
        self._split = SplitGradients(placed, self.job, self.plan.collective, on_wait)
        return self._split.exchanged

    def leave(self) -> None:
        if self._split is not None:
            self._split = None
            self._placed.mesh.close()

    def train_step(self, flag: Callable[[], int] = lambda: 0) -> Step:
        gradients = self._split
        assert gradients is not None
        gradients.begin_step()
        self.feed.forget(self.step)
        self._losses, self._waiting = [], {}
        for sharding in self._placed.shardings.values():
            sharding.before_step()
        try:
            self._pipeline.step()
            self.recorder.enter("exchange")
            finished = gradients.finish(self._losses if self._placed.mesh.shard == 0 else [], flag())
        except BaseException:
            gradients.abandon()
            raise
        self._check_finite(finished.losses, gradients)
        self.recorder.enter("optimizer")
        learning_rate = float(self.optimizer.param_groups[0]["lr"])
        grad_norm = self._clip_parts(gradients)
        self._update(finished.losses)
        gradients.share_ties()
        for sharding in self._placed.shardings.values():
            sharding.after_step()
        return self._committed(finished, grad_norm, learning_rate)

    @property
    def share(self) -> Share:
        mesh = self._placed.mesh
        return Share(mesh.replica, self.layout.dp, speaks=mesh.shard == 0, together=self.layout.shard > 0)

    def room(self, samples: int) -> int | None:
        return self._placed.room(samples)

    def computing(self) -> ExitStack:
        return self._placed.computing()

    def infer(self, inputs: Any) -> Any:
        return self._placed.infer(inputs)

    def _evaluated(self) -> list[Any]:
        """The inputs of batches of the sizes that only an evaluation has."""
        wanted = sizes(self.job, self.feed)
        inputs = self.feed.evaluation(0, range(max(wanted))).inputs if wanted else None
        return [first(inputs, size, max(wanted)) for size in wanted]

    # What the stages ask for (pipeline.stage.Task)

    def begin(self, stage: int, micro_batch: int) -> Any:
        assert self._split is not None
        index = self._split.block.start + micro_batch
        inputs, self._waiting[stage, micro_batch] = self._fetch(index)
        self._split.before_forward(stage)
        self._within = self._placed.computing()
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
        if stage in self._placed.shardings:
            self._placed.shardings[stage].before_backward(last=micro_batch == self._split.block.size - 1)
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
        return gather(self._placed, self.optimizer, self.scheduler, self.step)

    def restore(self, state: dict[str, Any], keep: bool = False) -> None:
        """Take this worker's part of a whole state. Every worker has the whole one at hand."""
        self.step = take(self._placed, self.optimizer, self.scheduler, state)

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
        norm = norms.total(self._placed, gradients.norms, self.job.reproducible)
        self._check_norm(float(norm), gradients)
        params = [handle for handle in self._placed.handles.values() if handle.grad is not None]
        if params:
            torch.nn.utils.clip_grads_with_norm_(params, self.job.clip_grad_norm, norm.to(self.device))
        return float(norm)

    def _place(self, mesh: Mesh, cuts: Sequence[int] | None) -> Placed:
        """This worker's part of the model; the optimizer works on it from now on."""
        job, first = self.job, None
        if self.layout.pp > 1 or self.layout.tp > 1:  # by it the model is looked at
            first = self.feed.first(mesh.gang, mine=mesh.replica == 0)
        recipe = Recipe(
            layout=self.layout,
            inputs=first.inputs if first else None,
            cuts=cuts,
            further=self._evaluated,
            micro_batches=job.micro_batches,
            in_order=job.reproducible,
            compile=job.compile,
            autocast=self._autocast,
            loss=(lambda output: job.loss(output, first.targets)) if first else None,
            traits=partial(find_traits, job),
        )
        before: dict[Tensor, str] = {param: name for name, param in self.model.named_parameters()}
        placed = build(self.model, recipe, mesh)
        check(self.job, self.feed, placed.room)
        give_to(self.optimizer, before, placed.handles)
        return placed
