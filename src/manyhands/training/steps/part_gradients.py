"""The gradient of a step on one worker of a split run.

Whatever the order in which a pipeline computes, each stage's micro-batches come in increasing order, so what autograd
leaves in `.grad` after each is folded in the job's tree as in an unsplit run (gradients.py), and replicas
combine their subtrees by the same forests. Only sharded parameters (ZeRO) are summed by FSDP itself, in an order of
its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from manyhands.collective import assign_blocks
from manyhands.errors import UserError
from manyhands.job import Job
from manyhands.parallel.parts import Part, Placed
from manyhands.parallel.sharding import reduces
from manyhands.parallel.ties import Tie, watch_uses
from manyhands.sync import Exchange, Finished, LocalSum, Task, choose_forest, lay_out, sums
from manyhands.training.steps.buffers import BufferChanges


class PartGradients:
    """Gradients and buffer changes of the stages on this worker.

    Args:
        placed: what this worker holds.
        job: micro-batches and whether the order of sums is the job's.
        collective: how gradients travel between replicas.
        on_wait: called with True when `finish` has to wait for others, and with False when that is over.

    Attributes:
        exchanged: how gradients travel and why, in words.
    """

    def __init__(
        self,
        placed: Placed,
        job: Job,
        collective: str,
        on_wait: Callable[[bool], None],
    ) -> None:
        parts, handles, ties, mesh = placed.parts, placed.handles, placed.ties, placed.mesh
        self._reduced = set(placed.sharded) if reduces(mesh.layout.shard, placed.table.splits_backward) else set()
        """Names of the parameters whose gradients are divided as they come."""
        self._model, self._placed = placed.model, placed
        self._parameters, self._parts, self._handles, self._mesh = placed.parameters, list(parts), handles, mesh
        self._split_backward, self._on_wait = placed.table.splits_backward, on_wait
        self.block = assign_blocks(job.micro_batches, mesh.layout.dp)[mesh.replica]
        self._ties = {(tie.name, stage): tie for tie in ties for stage in tie.stages if self._part(stage) is not None}
        self._all_ties = list(ties)
        # A parameter whose sum another stage makes is no item here.
        self._names = {
            part.index: [
                name
                for name in reversed(part.parameters)
                if handles[name].requires_grad and self._owns(name, part.index) and name not in self._reduced
            ]
            for part in parts
        }
        order = list(dict.fromkeys(name for part in reversed(self._parts) for name in self._names[part.index]))
        self._item = {name: item for item, name in enumerate(order)}
        self._order = order
        self._changes = {
            part.index: BufferChanges(placed.model, job.micro_batches, set(part.buffers)) for part in self._parts
        }
        floats = [buffer for changes in self._changes.values() for buffer in changes.floats]
        count = len(order)
        self._buffer_items: dict[int, list[int]] = {}
        for part in self._parts:
            size = len(self._changes[part.index].floats)
            self._buffer_items[part.index] = list(range(count, count + size))
            count += size
        task = Task(job.micro_batches, job.reproducible)
        plan, nodes, total = sums(task, assign_blocks(job.micro_batches, mesh.layout.dp), mesh.replica)
        self._exchange: Exchange | None = None
        self._buckets: list[set[int]] = []
        self.exchanged = "each replica adds up the gradients of its share of the parameters" if self._reduced else ""
        summed = [_whole_form(placed, name) for name in order] + floats
        if mesh.layout.dp > 1 and summed:
            forest, how = choose_forest(collective, mesh.layout.dp, mesh.group("dp").cluster)
            self.exchanged = self.exchanged or how
            layout = lay_out(summed, boundary=len(summed) - len(floats))
            device = summed[0].device
            self._exchange = Exchange(layout, nodes, total, mesh.group("dp"), device, forest, on_wait)
            self._buckets = [set(bucket.items) for bucket in layout.buckets]
        elif mesh.layout.dp == 1:
            self.exchanged = "one replica: each worker adds up what is its own"
        self._sum = LocalSum(plan, self._exchange.outputs if self._exchange else None)
        self.norms: dict[str, float] = {}
        """Norms of gradients that were whole here before they were divided."""
        self._folded: set[int] = set()
        self._unused: set[str] = set()
        self._waiting: list[tuple[str, int, int, Sequence[Tensor], Callable[[], Tensor]]] = []
        self._uses: dict[tuple[str, int, int], list[Tensor]] = {}
        self._outputs: Any = None
        for part in self._parts:
            if self._split_backward and self._awaiting(part.index):
                part.body.register_forward_hook(self._saw)  # type: ignore[attr-defined]

    # The step

    def begin_step(self) -> None:
        for changes in self._changes.values():
            changes.begin_step()
        self._unused, self._folded = set(self._order), set()
        self._clear()

    def before_forward(self, stage: int) -> None:
        self._changes[stage].lend()

    def after_forward(self, stage: int, micro_batch: int) -> None:
        """Take the buffers' changes; `micro_batch` counts from the block's beginning."""
        outputs, self._outputs = self._outputs, None
        if outputs is not None:
            for name in self._awaiting(stage):
                self._uses[name, stage, micro_batch] = watch_uses(self._handles[name], outputs)
        changes = self._changes[stage].after_micro_batch(self.block.start + micro_batch)
        self._push(micro_batch, self._buffer_items[stage], changes)

    def before_backward(self, stage: int, micro_batch: int) -> tuple[list[Tensor], list[Tensor]]:
        """Tied parameters as further roots, with what later stages give: autograd then adds its own after that."""
        roots, gradients = [], []
        if not self._split_backward:
            for (name, place), tie in self._ties.items():
                if place == stage and not tie.last(stage):
                    roots.append(self._parameters[name])
                    gradients.append(tie.from_later(stage, micro_batch, self._handles[name])())
        return roots, gradients

    def after_backward(self, stage: int, micro_batch: int) -> None:
        """Take the gradients of the stage's parameters, now complete for the micro-batch."""
        part = self._part(stage)
        assert part is not None
        live = self._live(part)
        items, gradients = [], []
        for name in reversed(part.parameters):
            if not self._handles[name].requires_grad or name in self._reduced:
                continue
            gradient = self._take(name, live[name])
            tie = self._ties.get((name, stage))
            if tie is None:
                items.append(self._item[name])
                gradients.append(gradient)
            elif self._split_backward and not tie.last(stage):
                wait = tie.from_later(stage, micro_batch, self._handles[name])
                uses = self._uses.pop((name, stage, micro_batch))
                self._waiting.append((name, stage, micro_batch, uses or [gradient], wait))
            else:
                self._give(tie, stage, micro_batch, gradient)
        self._push(micro_batch, items, gradients)

    def finish(self, losses: list[float], flag: int, look: dict[str, Any] | None = None) -> Finished:
        """Exchange what is left: afterwards every handle's `.grad` is the whole batch's.

        Args:
            losses, flag: of this worker, for all.
            look: what this worker tells so that others can compare.

        Raises:
            PeerLostError: a worker was lost; the step has changed nothing.
        """
        for name, stage, micro_batch, own, wait in self._waiting:
            total = wait()
            for gradient in own:
                total.add_(gradient)
            self._give(self._ties[name, stage], stage, micro_batch, total)
        self._waiting.clear()
        for tie in self._all_ties:
            tie.finish()
        others = {index: changes.others for index, changes in self._changes.items()} if self._mesh.replica == 0 else {}
        facts = {"losses": losses, "flag": flag, "unused": sorted(self._unused), "others": others, "look": look or {}}
        if self._exchange is not None:
            self._exchange.finish(b"-")
            total = self._exchange.totals.__getitem__
        else:
            total = self._sum.result
        everyone = [json.loads(f) for f in self._mesh.gang.all_gather_bytes(json.dumps(facts).encode(), self._wait)]
        self._set_gradients(total, everyone)
        others = {int(index): found for f in everyone for index, found in f["others"].items()}
        for index, changes in self._changes.items():
            changes.finish([total(item) for item in self._buffer_items[index]], others[index])
        self._sum.clear()
        losses, looks = [loss for f in everyone for loss in f["losses"]], [f["look"] for f in everyone]
        return Finished(losses, [f["flag"] for f in everyone], looks=looks)

    def abandon(self) -> None:
        """Undo a step that could not be finished."""
        self._clear()
        self._sum.clear()
        for changes in self._changes.values():
            changes.abandon()

    def share_ties(self) -> None:
        """Give every stage that uses a parameter its owner's value, after an update."""
        for tie in self._all_ties:
            tie.share(self._handles[tie.name].data)

    # Help

    def _set_gradients(self, total: Callable[[int], Tensor], everyone: list[dict[str, Any]]) -> None:
        for name in self._reduced:
            self._renew(name)
            self._handles[name].grad = _local(self._parameters[name].grad)
        self.norms.clear()
        replicas = [everyone[rank] for rank in self._mesh.layout.peers(self._mesh.rank, "dp")]
        unused = set(self._order).intersection(*(f["unused"] for f in replicas))
        for name, item in self._item.items():
            gradient = None if name in unused else total(item).contiguous()
            if gradient is not None and name in self._placed.sharded:
                self._renew(name)
                if name not in self._placed.placements:
                    self.norms[name] = float(torch.linalg.vector_norm(gradient))
                gradient = self._placed.of_replica(name, gradient)
            self._handles[name].grad = gradient

    def _renew(self, name: str) -> None:
        """Look a parameter's shard up again: FSDP may have moved it."""
        param = self._parameters[name]
        assert isinstance(param, DTensor)
        self._handles[name].data = param.detach().to_local()

    def _give(self, tie: Tie, stage: int, micro_batch: int, gradient: Tensor) -> None:
        """Give a tied parameter's sum so far to the stage before, or into the fold if this one owns it."""
        if tie.owner(stage):
            self._push(micro_batch, [self._item[tie.name]], [gradient])
        else:
            tie.hand_on(stage, micro_batch, gradient)

    def _live(self, part: Part) -> dict[str, nn.Parameter]:
        """The parameters that autograd has just worked on: FSDP's gathered ones in place of its shards."""
        if self._mesh.layout.shard == 0:
            return self._parameters
        return dict(zip(part.parameters, part.weights(self._model), strict=True))

    def _take(self, name: str, param: nn.Parameter) -> Tensor:
        gradient, param.grad = param.grad, None
        if gradient is None:
            return torch.zeros_like(param)
        if gradient.layout != torch.strided:
            raise UserError(
                f"parameter {name} has a sparse gradient, which cannot be summed in a fixed order. Build its layer "
                "with sparse=False."
            )
        self._unused.discard(name)
        return gradient

    def _push(self, micro_batch: int, items: list[int], tensors: Sequence[Tensor]) -> None:
        if not items:
            return
        with torch.no_grad():
            self._sum.push(micro_batch, items, tensors)
        if self._exchange is None or micro_batch < self.block.size - 1:
            return
        before, self._folded = self._folded, self._folded | set(items)
        for number, bucket in enumerate(self._buckets):
            if bucket <= self._folded and not bucket <= before:
                self._exchange.announce(number)

    def _part(self, stage: int) -> Part | None:
        return next((part for part in self._parts if part.index == stage), None)

    def _awaiting(self, stage: int) -> list[str]:
        """Parameters to whose gradients later stages add."""
        return [name for (name, place), tie in self._ties.items() if place == stage and not tie.last(stage)]

    def _saw(self, body: nn.Module, args: Any, output: Any) -> None:
        self._outputs = output if torch.is_grad_enabled() else None

    def _owns(self, name: str, stage: int) -> bool:
        tie = self._ties.get((name, stage))
        return tie is None or tie.owner(stage)

    def _wait(self, future: Any) -> None:
        self._on_wait(True)
        try:
            future.result()
        finally:
            self._on_wait(False)

    def _clear(self) -> None:
        for part in self._parts:
            for name in part.parameters:
                self._handles[name].grad = None
                self._parameters[name].grad = None
        self._waiting.clear()
        self._uses.clear()
        for tie in self._all_ties:
            tie.clear()


def _whole_form(placed: Placed, name: str) -> Tensor:
    """A tensor of the form in which the parameter's gradient is summed."""
    param = placed.parameters[name]
    return torch.empty(param.shape, dtype=param.dtype, device=param.device) if name in placed.sharded else param


def _local(gradient: Tensor | None) -> Tensor | None:
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient
