"""The gradient of a step: micro-batches folded in tree order, exchanged while the last backward runs.

Every micro-batch starts without gradients, so what autograd leaves in `.grad` is that micro-batch's alone and can
be folded in the job's order. In the last micro-batch of the block a hook on every parameter tells when its
gradient is final; a bucket whose gradients are all there is folded, written to the policy's sink and announced at
once, so the exchange overlaps the rest of backward.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from manyhands.errors import UserError
from manyhands.sync import Finished, LocalSum, Piece, Policy
from manyhands.training.steps.alike import bits
from manyhands.training.steps.buffers import BufferChanges


class Gradients:
    """Gradients (and buffer changes) of one worker under one policy.

    Args:
        model: its parameters that require gradients take part.
        policy: which micro-batches are this worker's, and where their sums go.
    """

    def __init__(self, model: nn.Module, policy: Policy) -> None:
        self._policy, self.block, self._frame = policy, policy.block, policy.frame
        self._names: dict[Tensor, str] = {p: name for name, p in model.named_parameters()}
        self._params = [p for p in reversed(list(model.parameters())) if p.requires_grad]
        self._buffers = BufferChanges(model, self._frame.size, summed=policy.sums_buffers)
        tensors = [*self._params, *self._buffers.floats]
        self._sink = policy.open(self._params, self._buffers.floats)
        self._pieces = list(self._sink.pieces) if self._sink else [Piece(i) for i in range(len(tensors))]
        count = len(self._params)
        self._items = [i for i, piece in enumerate(self._pieces) if piece.tensor < count]
        self._buffer_items = [i for i, piece in enumerate(self._pieces) if piece.tensor >= count]
        self._parts = Counter(piece.tensor for piece in self._pieces)
        self._taken: Counter[int] = Counter()
        self._hooks: list[Callable[[], None]] = []
        self._buckets = self._sink.buckets if self._sink else []
        for index, param in enumerate(self._params if self._sink else []):
            within = [b for b, items in enumerate(self._buckets) if any(self._pieces[i].tensor == index for i in items)]
            self._hooks.append(
                param.register_post_accumulate_grad_hook(partial(self._on_gradient, index, within)).remove
            )
        self._sum = LocalSum(policy.fold, self._sink.outputs if self._sink else None)
        self._watched: dict[int, dict[str, int]] = {}
        self._leaf = -1
        self._missing: list[set[int]] = []
        self._unused: set[int] = set()

    def begin_step(self) -> None:
        if (self.block, self._frame) != (self._policy.block, self._policy.frame):
            self.block, self._frame = self._policy.block, self._policy.frame
            self._sum = LocalSum(self._policy.fold, self._sink.outputs if self._sink else None)
            self._buffers.resize(self._frame.size)
        self._buffers.begin_step()
        self._unused = set(range(len(self._params)))
        self._missing = []
        self._watched = {}
        self._clear()

    def watch(self, micro_batches: Collection[int]) -> dict[int, dict[str, int]]:
        """Keep the sums of the bits of what these of the step's micro-batches come to, by name; returns where."""
        self._watched = {index: {} for index in micro_batches}
        return self._watched

    def take_away(self, micro_batch: int) -> dict[str, int]:
        """What the micro-batch comes to whose backward pass is done, as `watch` keeps it; nothing of it is left. Only
        before a step's own micro-batches."""
        changes = self._buffers.after_micro_batch(micro_batch - self._frame.start)
        found: dict[str, int] = {}
        self._note(found, self._items, [self._gradient(self._pieces[item]) for item in self._items])
        self._note(found, self._buffer_items, self._pieces_of(changes, self._buffer_items))
        self._clear()
        return found

    def begin_micro_batch(self, micro_batch: int) -> None:
        """The forward pass of a micro-batch of the block comes next."""
        self._leaf = micro_batch - self.block.start
        if self._sink is not None and self._leaf == self.block.size - 1:
            tensors = [{self._pieces[i].tensor for i in items} for items in self._buckets]
            self._missing = [{t for t in found if t < len(self._params)} for found in tensors]

    def end_micro_batch(self, micro_batch: int) -> None:
        """Fold what has not been folded yet, now that a micro-batch's backward pass is done."""
        changes = self._buffers.after_micro_batch(micro_batch - self._frame.start)
        if not self._missing:
            self._fold(self._items)
            self._push(self._buffer_items, self._pieces_of(changes, self._buffer_items))
            return
        assert self._sink is not None
        for bucket, items in enumerate(self._buckets):
            pieces = [self._pieces[i] for i in items]
            if pieces[0].tensor >= len(self._params):
                self._push(items, self._pieces_of(changes, items))
                self._sink.announce(bucket)
            elif self._missing[bucket]:
                self._flush(bucket)

    def finish(
        self,
        losses: list[float],
        flag: int,
        seconds: float | None = None,
        before: float = 0.0,
        look: dict[str, Any] | None = None,
    ) -> Finished:
        """Exchange what is left: afterwards every parameter's `.grad` is the whole batch's, unless its sum stays
        elsewhere.

        Args:
            losses, flag: of this worker, for all.
            seconds: that a micro-batch took.
            before: seconds that the step before took.
            look: what this worker tells so that others can compare.

        Raises:
            PeerLostError: a worker was lost; the step has changed nothing.
        """
        facts: list[dict[str, Any]] = [
            {
                "losses": losses,
                "flag": flag,
                "seconds": seconds,
                "before": before,
                "unused": sorted(self._unused),
                "others": self._buffers.others,
                "look": look or {},
            }
        ]
        if self._sink is not None:
            facts = [json.loads(f) for f in self._sink.finish(json.dumps(facts[0]).encode())]
        unused = set(range(len(self._params))).intersection(*(f["unused"] for f in facts))
        totals = {self._pieces[item].tensor: self._total(item) for item in self._items}
        for index, param in enumerate(self._params):
            total = totals[index]
            param.grad = None if index in unused or total is None else _plain(total)
        changes = [self._total(item) for item in self._buffer_items]
        self._buffers.finish([change for change in changes if change is not None], facts[0]["others"])
        self._sum.clear()
        losses = [loss for f in facts for loss in f["losses"]]
        times: list[float | None] = [f["seconds"] for f in facts]
        others, before = facts[0]["others"], max(f["before"] for f in facts)
        looks = [f["look"] for f in facts]
        return Finished(losses, [f["flag"] for f in facts], times, before, frozenset(unused), others, looks)

    def abandon(self) -> None:
        """Undo a step that could not be finished: no gradients, buffers as at its start."""
        self._clear()
        self._sum.clear()
        self._buffers.abandon()

    def close(self) -> None:
        """Leave the gang."""
        for remove in self._hooks:
            remove()

    def _total(self, item: int) -> Tensor | None:
        return self._sink.total(item) if self._sink else self._sum.result(item)

    def _on_gradient(self, index: int, buckets: list[int], param: Tensor) -> None:
        if not self._missing:
            return
        if any(index not in self._missing[bucket] for bucket in buckets):
            raise UserError(
                f"parameter {self._names.get(param)} got its gradient twice in one backward pass, as with "
                "reentrant activation checkpointing. Use checkpoint(..., use_reentrant=False)."
            )
        for bucket in buckets:
            self._missing[bucket].discard(index)
            if not self._missing[bucket]:
                self._flush(bucket)

    def _flush(self, bucket: int) -> None:
        assert self._sink is not None
        self._missing[bucket].clear()
        self._fold(self._buckets[bucket])
        self._sink.announce(bucket)

    def _fold(self, items: list[int]) -> None:
        """Take the gradients of the items and add them to the local sum; a missing one is zero."""
        gradients = [self._gradient(self._pieces[item]) for item in items]
        with torch.no_grad():
            self._push(items, gradients)

    def _push(self, items: list[int], values: list[Tensor]) -> None:
        """Add the items of this micro-batch to the local sum."""
        watched = self._watched.get(self._leaf + self.block.start)
        if watched is not None:
            self._note(watched, items, values)
        self._sum.push(self._leaf, items, values)

    def _pieces_of(self, changes: Sequence[Tensor], items: list[int]) -> list[Tensor]:
        """The changes of buffers, as pieces."""
        pieces = [self._pieces[item] for item in items]
        return [piece.of(changes[piece.tensor - len(self._params)]) for piece in pieces]

    def _note(self, found: dict[str, int], items: list[int], values: list[Tensor]) -> None:
        """Write down the sums of the bits of what was computed."""
        for item, value in zip(items, bits(values), strict=True):
            piece = self._pieces[item]
            known = piece.tensor < len(self._params)
            name = (
                self._names.get(self._params[piece.tensor]) if known else f"buffer {piece.tensor - len(self._params)}"
            )
            part = "" if piece.stop is None else f" from {piece.start}"
            found[f"the gradient of {name}{part}" if known else f"{name}{part}"] = value

    def _gradient(self, piece: Piece) -> Tensor:
        """The piece's part of its gradient, which goes from its parameter with the last piece."""
        param = self._params[piece.tensor]
        gradient = param.grad
        if gradient is None:
            return piece.of(torch.zeros_like(param))
        if gradient.layout != torch.strided:
            raise UserError(
                f"parameter {self._names[param]} has a sparse gradient, which cannot be summed in a fixed order. "
                "Build its layer with sparse=False."
            )
        self._unused.discard(piece.tensor)
        self._taken[piece.tensor] += 1
        if self._taken[piece.tensor] == self._parts[piece.tensor]:
            self._taken[piece.tensor] = 0
            param.grad = None
        return piece.of(gradient)

    def _clear(self) -> None:
        self._taken.clear()
        for param in self._params:
            param.grad = None


def _plain(gradient: Tensor) -> Tensor:
    """The gradient row-major, as those that came through the exchange are: a norm then adds in the same order."""
    return gradient if gradient.is_contiguous() else gradient.contiguous()
