"""Local steps: each worker trains alone on its share of every batch, and all agree every H steps.

Problem: all-reduce sends a gradient per step, which a slow network cannot carry.
Idea: workers apply their own gradients (the mean over their own blocks) and only every H steps exchange how far they
have come. With d = the average over workers of (start of the round - own weights), weighted by block sizes, the next
round starts from start - d (LocalSGD), or from where an outer optimizer takes the start with d as its gradient
(DiLoCo: Nesterov momentum 0.9, learning rate 0.7). Each worker keeps its own inner optimizer state. Differences are
small numbers and may travel as int8; what that loses is added to the next difference.
Cost: 2 (n-1)/n of the weights' bytes per worker and H steps, a quarter of that as int8; one more copy of the weights.
Source: Stich, "Local SGD converges fast and communicates little", ICLR 2019; Douillard et al., "DiLoCo: distributed
low-communication training of language models", 2023.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from manyhands.collective import Block, Wire
from manyhands.state import gather_trees, restore_optimizer
from manyhands.sync.policy import Policy, Replica, Round, Task
from manyhands.sync.waiting import OnWait
from manyhands.transport import Group


class Outer(NamedTuple):
    """An outer optimizer: SGD with these settings."""

    lr: float = 0.7
    momentum: float = 0.9
    nesterov: bool = True


class LocalSteps(Policy):
    """A worker's side of local steps.

    Args:
        every: steps of a round; rounds end after multiples of it.
        outer: None averages.
        wire: how differences of fp32 weights travel.
    """

    def __init__(
        self,
        task: Task,
        gang: Group | None,
        on_wait: OnWait = lambda waits: None,
        every: int = 16,
        outer: Outer | None = None,
        wire: Wire = "full",
    ) -> None:
        super().__init__(task._replace(balance=False), gang, on_wait)
        self._every, self._settings, self._wire = every, outer, wire
        self._weight = self.block.size / task.micro_batches
        self._flats: list[_Flat] = []
        self._outer: torch.optim.SGD | None = None
        how = f"{'Nesterov' if outer.nesterov else 'SGD'} (lr {outer.lr:g})" if outer else "the average"
        self.described = f"not at all: every {every} steps all weights become {how} of what the workers have come to"

    @property
    def frame(self) -> Block:
        return self.block

    def restore(self, replica: Replica, kept: Mapping[str, Any]) -> None:
        params = [p for p in replica.model.parameters() if p.requires_grad]
        dtypes = dict.fromkeys(p.dtype for p in params)
        self._flats = [_Flat([p for p in params if p.dtype == dtype]) for dtype in dtypes]
        self._model, self._optimizer = replica.model, replica.optimizer
        if self._settings is not None:
            lr, momentum, nesterov = self._settings
            starts = [flat.start for flat in self._flats]
            self._outer = torch.optim.SGD(starts, lr=lr, momentum=momentum, nesterov=nesterov and momentum > 0)
        if kept.get("policy") != "local":
            return
        own = kept["workers"][self.rank % len(kept["workers"])]
        restore_optimizer(own["optimizer"], replica.optimizer)
        for flat, lost in zip(self._flats, own["lost"], strict=True):
            if self._compresses(flat) and lost is not None:
                flat.lost.copy_(lost)
        if self._outer is not None and kept["outer"] is not None:
            restore_optimizer(kept["outer"], self._outer)

    def agrees_after(self, step: int) -> bool:
        return step % self._every == 0

    def agree(self, replica: Replica, figures: Round) -> Round:
        if self.gang is not None or self._outer is not None:
            self._agree_on_weights()
        if self.gang is None:
            return figures
        self._agree_on_buffers(replica.model)
        own = json.dumps([figures, self.block.size]).encode()
        rows = [json.loads(text) for text in self.gang.all_gather_bytes(own, self._wait)]
        everyone = [Round(*own) for own, _ in rows]
        shares = [size / self.task.micro_batches for _, size in rows]
        losses = [_mean(column, shares) for column in zip(*(own.losses for own in everyone), strict=True)]
        norms: list[float | None] = [None] * len(losses)
        if figures.norms[0] is not None:
            norms = [_mean(column, shares) for column in zip(*(own.norms for own in everyone), strict=True)]
        asked = tuple(_any(flag for flags in own.flags for flag in flags) for own in everyone)
        return Round(losses, norms, [()] * (len(losses) - 1) + [asked])

    def capture(self, state: dict[str, Any]) -> dict[str, Any]:
        own = {
            "optimizer": self._optimizer.state_dict(),
            "lost": [flat.lost if self._compresses(flat) else None for flat in self._flats],
        }
        workers = gather_trees(self.gang, own) if self.gang is not None else [own]
        outer = self._outer.state_dict() if self._outer is not None else None
        return state | {"sync": {"policy": "local", "outer": outer, "workers": workers}}

    @torch.no_grad()
    def _agree_on_weights(self) -> None:
        """Put all weights to where the next round starts."""
        for flat in self._flats:
            flat.measure(self._weight)
        if self.gang is not None:
            sums = [
                self.gang.all_reduce(flat.difference, wire=self._wire, lost=flat.lost)
                if self._compresses(flat)
                else self.gang.all_reduce(flat.difference)
                for flat in self._flats
            ]
            for future in sums:
                self._wait(future)
        for flat in self._flats:
            flat.start.grad = flat.difference
            if self._outer is None:
                flat.start.sub_(flat.difference)
        if self._outer is not None:
            self._outer.step()
        for flat in self._flats:
            flat.hand_out()

    @torch.no_grad()
    def _agree_on_buffers(self, model: nn.Module) -> None:
        """Agree on buffers: numbers become their average; what cannot be averaged, rank 0's."""
        assert self.gang is not None
        for buffer in model.buffers():
            if not buffer.numel():
                continue
            value = buffer.detach().clone(memory_format=torch.contiguous_format)
            if value.is_floating_point() and bool(torch.isfinite(value).all()):
                value.mul_(self._weight)
                self._wait(self.gang.all_reduce(value))
            else:
                self._wait(self.gang.broadcast(value, 0))
            buffer.copy_(value)

    def _compresses(self, flat: _Flat) -> bool:
        return self._wire != "full" and flat.start.dtype == torch.float32


class _Flat:
    """The weights of one dtype, one after another.

    Attributes:
        start: what the round started from.
        difference: how far the weights have come from it.
        lost: what a lossy wire format still owes.
    """

    def __init__(self, params: Sequence[nn.Parameter]) -> None:
        self._params = params
        with torch.no_grad():
            self.start = nn.Parameter(torch.cat([p.detach().reshape(-1) for p in params]))
        self.difference = torch.zeros_like(self.start)
        self.lost = torch.zeros_like(self.start)

    def measure(self, weight: float) -> None:
        """`difference` becomes this worker's part of the average difference."""
        for own, param in zip(self._views(self.difference), self._params, strict=True):
            own.copy_(param)
        torch.sub(self.start.detach(), self.difference, out=self.difference)
        self.difference.mul_(weight)

    def hand_out(self) -> None:
        """The weights become `start`."""
        for param, view in zip(self._params, self._views(self.start.detach()), strict=True):
            param.copy_(view)

    def _views(self, flat: Tensor) -> list[Tensor]:
        sizes = [p.numel() for p in self._params]
        return [part.view(p.shape) for part, p in zip(flat.split(sizes), self._params, strict=True)]


def _mean(values: Sequence[float], shares: Sequence[float]) -> float:
    return math.fsum(value * share for value, share in zip(values, shares, strict=True))


def _any(flags: Any) -> int:
    asked = 0
    for flag in flags:
        asked |= flag
    return asked
