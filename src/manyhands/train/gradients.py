"""The gradient of a step: micro-batches folded in tree order, exchanged while the last backward runs.

Every micro-batch starts without gradients, so what autograd leaves in `.grad` is that micro-batch's alone and can
be folded in the job's order. In the last micro-batch of the block a hook on every parameter tells when its
gradient is final; a bucket whose gradients are all there is folded, written to shared memory and
announced at once, so the exchange overlaps the rest of backward.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from manyhands.collective import Fold, Node, assign_blocks, fold, leaves
from manyhands.errors import UserError
from manyhands.job import Job
from manyhands.sync import Exchange, LocalSum, choose_forest, lay_out
from manyhands.train.buffers import BufferChanges
from manyhands.transport import Group


class Finished(NamedTuple):
    """What all workers know after the exchange."""

    losses: list[float]
    """Of every micro-batch of the step, in order."""
    flags: list[int]
    """What each worker passed to `finish`, in rank order."""


class Gradients:
    """Gradients (and buffer changes) of one worker in one gang.

    Args:
        model: its parameters that require gradients take part.
        job: micro-batches and whether the order of sums is the job's.
        group: the gang; None for a single worker.
        collective: how gradients travel.
        on_wait: called with True when `finish` has to wait for others, and with False when that is over.

    Attributes:
        exchanged: how gradients travel and why, in words.
    """

    def __init__(
        self,
        model: nn.Module,
        job: Job,
        group: Group | None,
        collective: str = "auto",
        on_wait: Callable[[bool], None] = lambda waits: None,
    ) -> None:
        rank, world = (group.rank, group.world) if group else (0, 1)
        self.block = assign_blocks(job.micro_batches, world)[rank]
        self._names: dict[Tensor, str] = {p: name for name, p in model.named_parameters()}
        self._params = [p for p in reversed(list(model.parameters())) if p.requires_grad]
        self._buffers = BufferChanges(model, job.micro_batches)
        self._items = list(range(len(self._params)))
        self._buffer_items = [len(self._params) + i for i in range(len(self._buffers.floats))]
        plan, nodes, total = sums(job, rank, world)
        self._exchange: Exchange | None = None
        self._hooks: list[Callable[[], None]] = []
        self._buckets: list[list[int]] = []
        self.exchanged = ""
        if group is not None:
            tensors = [*self._params, *self._buffers.floats]
            layout = lay_out(tensors, boundary=len(self._params))
            forest, self.exchanged = choose_forest(collective, world)
            self._exchange = Exchange(layout, nodes, total, group, self._params[0].device, forest, on_wait)
            self._buckets = [list(bucket.items) for bucket in layout.buckets]
            for bucket, items in enumerate(self._buckets):
                for item in items:
                    if item < len(self._params):
                        hook = partial(self._on_gradient, bucket, item)
                        self._hooks.append(self._params[item].register_post_accumulate_grad_hook(hook).remove)
        self._sum = LocalSum(plan, self._exchange.outputs if self._exchange else None)
        self._leaf = -1
        self._missing: list[set[int]] = []
        self._unused: set[int] = set()

    def begin_step(self) -> None:
        self._buffers.begin_step()
        self._unused = set(self._items)
        self._missing = []
        self._clear()

    def begin_micro_batch(self, micro_batch: int) -> None:
        """The forward pass of a micro-batch of the block comes next."""
        self._leaf = micro_batch - self.block.start
        if self._exchange is not None and self._leaf == self.block.size - 1:
            self._missing = [{i for i in items if i < len(self._params)} for items in self._buckets]

    def end_micro_batch(self, micro_batch: int) -> None:
        """Its backward pass is done: fold what has not been folded yet."""
        changes = self._buffers.after_micro_batch(micro_batch)
        if not self._missing:
            self._fold(self._items)
            self._sum.push(self._leaf, self._buffer_items, changes)
            return
        assert self._exchange is not None
        for bucket, items in enumerate(self._buckets):
            if items[0] >= len(self._params):
                self._sum.push(self._leaf, items, [changes[i - len(self._params)] for i in items])
                self._exchange.announce(bucket)
            elif self._missing[bucket]:
                self._flush(bucket)

    def finish(self, losses: list[float], flag: int) -> Finished:
        """Exchange what is left: afterwards every parameter's `.grad` is the whole batch's.

        Raises:
            PeerLostError: a worker was lost; the step has changed nothing.
        """
        facts: list[dict[str, Any]] = [
            {"losses": losses, "flag": flag, "unused": sorted(self._unused), "others": self._buffers.others}
        ]
        if self._exchange is not None:
            facts = [json.loads(f) for f in self._exchange.finish(json.dumps(facts[0]).encode())]
            total = self._exchange.totals.__getitem__
        else:
            total = self._sum.result
        unused = set(self._items).intersection(*(f["unused"] for f in facts))
        for item, param in enumerate(self._params):
            param.grad = None if item in unused else _plain(total(item))
        self._buffers.finish([total(item) for item in self._buffer_items], facts[0]["others"])
        self._sum.clear()
        return Finished([loss for f in facts for loss in f["losses"]], [f["flag"] for f in facts])

    def abandon(self) -> None:
        """Undo a step that could not be finished: no gradients, buffers as at its start."""
        self._clear()
        self._sum.clear()
        self._buffers.abandon()

    def close(self) -> None:
        """Leave the gang."""
        for remove in self._hooks:
            remove()
        if self._exchange is not None:
            self._exchange.close()

    def _on_gradient(self, bucket: int, item: int, param: Tensor) -> None:
        if not self._missing:
            return
        if item not in self._missing[bucket]:
            raise UserError(
                f"parameter {self._names.get(param)} got its gradient twice in one backward pass, as with "
                "reentrant activation checkpointing. Use checkpoint(..., use_reentrant=False)."
            )
        self._missing[bucket].discard(item)
        if not self._missing[bucket]:
            self._flush(bucket)

    def _flush(self, bucket: int) -> None:
        assert self._exchange is not None
        self._missing[bucket].clear()
        self._fold(self._buckets[bucket])
        self._exchange.announce(bucket)

    def _fold(self, items: list[int]) -> None:
        """Take the gradients of the items and add them to the local sum; a missing one is zero."""
        gradients = []
        for item in items:
            param = self._params[item]
            gradient = param.grad
            param.grad = None
            if gradient is None:
                gradient = torch.zeros_like(param)
            elif gradient.layout != torch.strided:
                raise UserError(
                    f"parameter {self._names[param]} has a sparse gradient, which cannot be summed in a fixed order. "
                    "Build its layer with sparse=False."
                )
            else:
                self._unused.discard(item)
            gradients.append(gradient)
        with torch.no_grad():
            self._sum.push(self._leaf, items, gradients)

    def _clear(self) -> None:
        for param in self._params:
            param.grad = None


def sums(job: Job, rank: int, world: int) -> tuple[Fold, list[tuple[Node, ...]], int]:
    """The local additions, every rank's subtrees, and the number of leaves of the tree across workers."""
    blocks = assign_blocks(job.micro_batches, world)
    block = blocks[rank]
    if job.reproducible:
        plan = fold(leaves(block.start, block.stop), job.micro_batches)
        return plan, [b.pieces(job.micro_batches) for b in blocks], job.micro_batches
    # Each worker adds up its block from left to right and hands over one sum, whatever its share.
    plan = Fold((0,) + (1,) * (block.size - 1), (Node(0, rank),))
    return plan, [(Node(0, r),) for r in range(world)], world


def _plain(gradient: Tensor) -> Tensor:
    """Row-major, as gradients that came through the exchange are: a norm then adds in the same order."""
    return gradient if gradient.is_contiguous() else gradient.contiguous()
