"""A step on a worker that has a part of the model: pipeline stages, tensor shards, and shares of the state.

A table (pipeline/) says what this worker does for which stage and micro-batch, a model that is not cut being a pipeline
of one stage; gradients are folded per stage (part_gradients.py); and the state is put together from what all workers
hold, in the form that any other layout can read (part_state.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import manyhands.training.steps.norms as norms
import manyhands.training.steps.same as same
from manyhands.collective import Block, assign_blocks
from manyhands.errors import UserError
from manyhands.parallel.build import Recipe, build
from manyhands.parallel.mesh import Mesh
from manyhands.parallel.parts import Part, Placed
from manyhands.parallel.traits import find_traits
from manyhands.pipeline.runtime import Pipeline
from manyhands.pipeline.stage import Stage
from manyhands.plan import Layout, Plan
from manyhands.state import tree_sha256
from manyhands.sync import Finished, OnWait, Round
from manyhands.tables import tables_of
from manyhands.training.evaluate import Share, check, first, sizes
from manyhands.training.passing import Passing, route
from manyhands.training.steps.actions import Actions
from manyhands.training.steps.brake import Brake
from manyhands.training.steps.computer import Setting
from manyhands.training.steps.part_gradients import PartGradients
from manyhands.training.steps.part_state import gather, give_to, take
from manyhands.training.steps.unmoved import Unmoved
from manyhands.transport import Group, MismatchError


class Parts:
    """Computes steps of a part of a model, as `StepComputer` says; alone it can do nothing.

    Args:
        setting: what it computes with.
        plan: its layout divides the model.

    Raises:
        UserError: the model has tables.
    """

    def __init__(self, setting: Setting, plan: Plan) -> None:
        self._setting, self._learner, self._feed = setting, setting.learner, setting.feed
        self._layout: Layout = plan.layout
        if found := tables_of(self._learner.model):
            raise UserError(
                f"the model has tables ({', '.join(found)}), whose rows live on servers, and layout {self._layout} "
                "splits the model. Use --sync server without a layout."
            )
        self._placed: Placed | None = None
        self._gradients: PartGradients | None = None
        self._unmoved: Unmoved | None = None
        self.blocks: Sequence[Block] = assign_blocks(self._learner.job.micro_batches, self._layout.dp)

    agreed = -1

    # The gang

    @property
    def joined(self) -> bool:
        return self._gradients is not None

    @property
    def placed(self) -> Placed:
        """The model as this worker holds it, once there is a gang."""
        assert self._placed is not None, "a part of a model is for a gang"
        return self._placed

    @property
    def cuts(self) -> tuple[int, ...]:
        return self._placed.cuts if self._placed is not None else ()

    @property
    def block(self) -> Block:
        return self._ready().block

    @property
    def frame(self) -> Block:
        return Block(0, self._learner.job.micro_batches)

    def join(self, group: Group | None, plan: Plan, on_wait: OnWait, cuts: Sequence[int] | None) -> str:
        assert group is not None and group.world == self._layout.workers
        mesh = Mesh(self._layout, group, self._learner.device)
        try:
            placed = self._place(mesh, cuts)
        except BaseException:
            mesh.close()
            raise
        self._placed, self._learner.model = placed, placed.model
        there = route(self._layout, placed.table.placement, group.rank)
        self._feed.pass_on(Passing(group, there, self._learner.device), uses=len(placed.parts))
        gradients = PartGradients(placed, self._learner.job, plan.collective, on_wait)
        self._actions = Actions(self._setting, placed, gradients, Brake(plan.slowness(group.rank)))
        self._pipeline = Pipeline([self._stage(placed, part) for part in placed.parts], placed.table)
        self._gradients = gradients
        moves = self._layout.shard > 0 or self._layout.tp > 1  # FSDP and tensor parallelism write to weights themselves
        self._unmoved = Unmoved(placed.model, moves)
        return gradients.exchanged

    def leave(self) -> None:
        if self._gradients is not None:
            self._gradients = None
            self.placed.mesh.close()

    def _place(self, mesh: Mesh, cuts: Sequence[int] | None) -> Placed:
        """This worker's part of the model; the optimizer works on it from now on."""
        learner, job, batch = self._learner, self._learner.job, None
        if self._layout.pp > 1 or self._layout.tp > 1:  # by it the model is looked at
            batch = self._feed.first(mesh.gang, mine=mesh.replica == 0)
        recipe = Recipe(
            layout=self._layout,
            inputs=batch.inputs if batch else None,
            cuts=cuts,
            further=self._evaluated,
            micro_batches=job.micro_batches,
            in_order=job.reproducible,
            compile=job.compile,
            autocast=learner.autocast,
            loss=(lambda output: job.loss(output, batch.targets)) if batch else None,
            traits=partial(find_traits, job),
        )
        before: dict[Tensor, str] = {param: name for name, param in learner.model.named_parameters()}
        placed = build(learner.model, recipe, mesh)
        check(job, self._feed, placed.room)
        give_to(learner.optimizer, before, placed.handles)
        return placed

    def _evaluated(self) -> list[Any]:
        """The inputs of batches of the sizes that only an evaluation has."""
        wanted = sizes(self._learner.job, self._feed)
        inputs = self._feed.evaluation(0, range(max(wanted))).inputs if wanted else None
        return [first(inputs, size, max(wanted)) for size in wanted]

    def _stage(self, placed: Placed, part: Part) -> Stage:
        """A part in the form that the pipeline's runtime drives."""
        pipe = placed.mesh.process_group("pp") if self._layout.pp > 1 else None
        device, weights = self._learner.device, _weights(placed, part)
        return Stage(
            part.body, part.index, placed.table.stages, pipe, device, self._actions, placed.randomness, weights
        )

    # A step

    def compute(self, flag: Callable[[], int]) -> Finished:
        gradients = self._ready()
        gradients.begin_step()
        self._actions.begin_step()
        if self._unmoved is not None:
            self._unmoved.before()
        try:
            self._pipeline.step()
            if self._unmoved is not None:
                self._unmoved.after()
            self._setting.recorder.enter("exchange")
            used = {stage: sharding.used() for stage, sharding in self.placed.shardings.items()}
            look = same.rates(self._learner.optimizer) | same.gathers(used)
            return gradients.finish(self._actions.losses if self.placed.mesh.shard == 0 else [], flag(), look)
        except MismatchError as error:
            gradients.abandon()
            if self._layout.shard < 2:
                raise
            raise UserError(f"{same.OTHER_LAYERS} ({error})") from error
        except BaseException:
            gradients.abandon()
            raise

    def apply(self, finished: Finished) -> float | None:
        norm = self._clip()
        self._learner.move(draws=False)
        self._learner.advance(finished.losses)
        self._ready().share_ties()
        for sharding in self.placed.shardings.values():
            sharding.after_step()
        return norm

    def abandon(self) -> None:
        self._ready().abandon()

    def agrees_after(self, step: int) -> bool:
        return True

    def agree(self, figures: Round) -> Round:
        return figures

    def arrive(self) -> None:
        """Nothing is on its way between steps."""

    def _clip(self) -> float | None:
        """Clip the gradient by its norm over what all workers hold: each element once."""
        learner, placed, limit = self._learner, self.placed, self._learner.job.clip_grad_norm
        if limit is None:
            return None
        norm = norms.total(placed, self._ready().norms, learner.job.reproducible)
        learner.check_norm(float(norm))
        params = [handle for handle in placed.handles.values() if handle.grad is not None]
        if params:
            torch.nn.utils.clip_grads_with_norm_(params, limit, norm.to(learner.device))
        return float(norm)

    def _ready(self) -> PartGradients:
        assert self._gradients is not None, "it has joined no gang"
        return self._gradients

    # Evaluation

    @property
    def share(self) -> Share:
        mesh = self.placed.mesh
        return Share(mesh.replica, self._layout.dp, speaks=mesh.shard == 0, together=self._layout.shard > 0)

    def room(self, samples: int) -> int | None:
        return self.placed.room(samples)

    def computing(self) -> AbstractContextManager[Any]:
        return self.placed.computing()

    def infer(self, inputs: Any) -> Any:
        return self.placed.infer(inputs)

    # State

    def capture(self) -> dict[str, Any]:
        learner = self._learner
        return gather(self.placed, learner.optimizer, learner.scheduler, learner.step)

    def restore(self, state: dict[str, Any], keep: bool) -> None:
        learner = self._learner
        learner.step = take(self.placed, learner.optimizer, learner.scheduler, state)

    def weights_sha256(self) -> str:
        whole, gang = self.capture(), self.placed.mesh.gang
        text = tree_sha256(whole["model"]) if gang.rank == 0 else ""
        return gang.all_gather_bytes(text.encode())[0].decode()


def _weights(placed: Placed, part: Part) -> Callable[[], list[nn.Parameter]]:
    """Gives a part's parameters as autograd knows them."""
    layout = placed.mesh.layout
    if layout.shard or layout.tp > 1:  # FSDP and tensor parallelism exchange them
        return partial(part.weights, placed.model)
    weights = part.weights(placed.model)
    return lambda: weights
