"""A server's shards where pushes are applied one by one, as they come.

A push is the mean gradient over a share of a step. It counts as that part of a step: the learning rate is multiplied by
the share's part of the batch (the linear scaling rule), so that all shares of a step together move the weights as far
as one step does, and the schedule moves on when a whole step's worth has been applied. A push with a number that was
applied before is acknowledged and nothing more. The same pushes in the same order give the same bits, which is what
keeps a copy on another server equal.
Source of the rule: Goyal et al., "Accurate, large minibatch SGD", 2017.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from manyhands.sync.layout import lay_out
from manyhands.sync.server.division import Division
from manyhands.sync.server.holding import Holding
from manyhands.sync.server.messages import Push


class Keeper:
    """One server's shards: its own, or its copy of another's.

    Args:
        division: of the parameters, whose values it begins with.
        server: whose shards.
        optimizer: over all parameters, perhaps with state; it becomes this keeper's.
        scheduler: the optimizer's, if it has one.
        buffers: the model's floating-point buffers, on server 0.
        micro_batches: of a step.

    Attributes:
        version: pushes applied.
        views, flats: the weights, by item and by bucket.
        buffers: the running statistics and the like, as one run of bytes.
    """

    def __init__(
        self,
        division: Division,
        server: int,
        optimizer: Optimizer,
        scheduler: LRScheduler | None,
        buffers: Sequence[Tensor],
        micro_batches: int,
    ) -> None:
        self.server, self.buckets = server, division.buckets_of(server)
        self._optimizer, self._scheduler, self._micro_batches = optimizer, scheduler, micro_batches
        region = torch.empty(division.layout.size, dtype=torch.uint8)
        self.flats, self.views = division.layout.flats(region), division.layout.views(region)
        own = {i: s for i, s in enumerate(division.shards) if s.server == server}
        self.holding = Holding(optimizer, division.params, own, {item: self.views[item] for item in own})
        self._buffers = BufferRegion(buffers)
        with torch.no_grad():
            for view, buffer in zip(self._buffers.views, buffers, strict=True):
                view.copy_(buffer)
        self.others: dict[str, str] = {}
        """What a first micro-batch left in other buffers, as `BufferChanges.others`."""
        self.version = 0
        self.applied: dict[int, int] = {}
        """The number of each worker's last push."""
        self._pending = 0
        self._losses: list[float] = []

    @property
    def buffers(self) -> Tensor:
        return self._buffers.region

    @property
    def lr(self) -> float:
        return float(self._optimizer.param_groups[0]["lr"])

    def knows(self, push: Push) -> bool:
        """Whether this push was applied before."""
        return push.number <= self.applied.get(push.worker, 0)

    @torch.no_grad()
    def push(self, push: Push, gradients: Sequence[Tensor], changes: BufferRegion) -> None:
        """Apply a push.

        Args:
            push: what is said of it.
            gradients: by item, those of this server filled.
            changes: the sums of the buffers' changes over the share.
        """
        part = push.micro_batches / self._micro_batches
        self.holding.give(gradients, frozenset(push.unused))
        if push.scale != 1.0:
            self.holding.scale(push.scale)
        rates = [group["lr"] for group in self._optimizer.param_groups]
        for group, rate in zip(self._optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * part
        self._optimizer.step()
        for group, rate in zip(self._optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        for view, change in zip(self._buffers.views, changes.views, strict=True):
            view.add_(change, alpha=1 / self._micro_batches)
        self.others |= push.others
        self.version += 1
        self.applied[push.worker] = push.number
        self._advance(push)

    def capture(self) -> dict[str, Any]:
        """All that is kept, as a tree that looks at the live tensors."""
        return self.holding.capture() | {
            "weights": {str(item): self.views[item] for item in self.holding.items},
            "buffers": self.buffers,
            "others": self.others,
            "scheduler": self._scheduler.state_dict() if self._scheduler else None,
            "version": self.version,
            "applied": {str(worker): number for worker, number in self.applied.items()},
            "pending": [self._pending, self._losses],
        }

    @torch.no_grad()
    def load(self, kept: Mapping[str, Any]) -> None:
        """Become what was captured."""
        for item, value in kept["weights"].items():
            self.views[int(item)].copy_(value)
        self.buffers.copy_(kept["buffers"])
        self.holding.load(kept)
        self.others = dict(kept["others"])
        if self._scheduler is not None:
            self._scheduler.load_state_dict(dict(kept["scheduler"]))
        self.version = kept["version"]
        self.applied = {int(worker): number for worker, number in kept["applied"].items()}
        self._pending, self._losses = kept["pending"][0], list(kept["pending"][1])

    def _advance(self, push: Push) -> None:
        """Move the schedule on, if a whole step's worth has been applied."""
        self._pending += push.micro_batches
        self._losses += push.losses
        while self._pending >= self._micro_batches:
            self._pending -= self._micro_batches
            losses, self._losses = self._losses, []
            if isinstance(self._scheduler, ReduceLROnPlateau):
                self._scheduler.step(sum(losses) / max(1, len(losses)))
            elif self._scheduler is not None:
                self._scheduler.step()


class BufferRegion:
    """Room for a model's floating-point buffers, in one run of bytes."""

    def __init__(self, buffers: Sequence[Tensor]) -> None:
        layout = lay_out(buffers)
        self.region = torch.zeros(layout.size, dtype=torch.uint8)
        self.views = layout.views(self.region)


def float_buffers(model: nn.Module) -> list[Tensor]:
    """A model's buffers that servers keep."""
    return [b for b in model.buffers() if b.numel() and b.is_floating_point()]


def put_others(others: Mapping[str, str], model: nn.Module, names: Sequence[str]) -> None:
    """Put what a first micro-batch left in other buffers into the model. `names`: of all buffers, by number."""
    buffers = dict(model.named_buffers())
    for index, text in others.items():
        live = buffers[names[int(index)]]
        raw = torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
        live.copy_(raw.view(live.dtype).view(live.shape))
