"""What the workers of a tensor group tell each other, with gradients.

A plain tensor is *whole*: the same on every worker, and so is its gradient. A split tensor holds a worker's share, and
its gradient is the share of the whole gradient. Every operation below keeps both true:

    enter    whole -> whole, about to be used by shares     backward: all-reduce (each worker knows a part of the sum)
    reduce   sum over workers -> whole                      backward: nothing
    gather   shares -> whole                                backward: take the share
    take     whole (entered) -> share                       backward: zeros elsewhere
    collect  shares -> whole, about to be used by shares    backward: reduce-scatter
    scatter  sum over workers -> shares                     backward: all-gather

`enter` and `reduce` are f and g of Megatron-LM (arXiv:1909.08053, section 3), `collect` and `scatter` those of its
sequence parallelism (arXiv:2205.05198, section 4.2.2). A step moves 2(n-1)/n * bytes per `enter` and `reduce`.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from manyhands.tensor_parallel.split import Split

REMEMBERED = 8
"""Entered tensors that are remembered, so that q, k and v projections of one tensor share one all-reduce."""


# torch 2.13 has new names and warns of the old ones.
_all_gather = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)
_reduce_scatter = getattr(dist, "reduce_scatter_single", dist.reduce_scatter_tensor)


class Peers:
    """The tensor group, and this worker's place in it."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group
        self.rank, self.degree = group.rank(), group.size()
        self._entered: OrderedDict[int, tuple[Tensor, int, Tensor]] = OrderedDict()

    def enter(self, tensor: Tensor) -> Tensor:
        """The tensor with another gradient: the sum over the workers."""
        if not (tensor.requires_grad and torch.is_grad_enabled()):
            return tensor
        return self._remembered(tensor, None, lambda: _Enter.apply(tensor, self))

    def collect(self, tensor: Tensor, dim: int, split: Split) -> Tensor:
        """The shares of all workers put together; the gradient is the share of the sum over the workers."""
        return self._remembered(tensor, dim, lambda: _Collect.apply(tensor, dim, split, self))

    def reduce(self, tensor: Tensor) -> Tensor:
        return _Reduce.apply(tensor, self)

    def gather(self, tensor: Tensor, dim: int, split: Split) -> Tensor:
        return _Gather.apply(tensor, dim, split, self)

    def scatter(self, tensor: Tensor, dim: int, split: Split) -> Tensor:
        return _Scatter.apply(tensor, dim, split, self)

    def forget(self) -> None:
        """Let go of the tensors that were entered."""
        self._entered.clear()

    def _remembered(self, tensor: Tensor, dim: int | None, make: Any) -> Tensor:
        key = hash((id(tensor), dim, torch.is_grad_enabled()))
        known = self._entered.get(key)
        if known is not None and known[0] is tensor and known[1] == tensor._version:
            self._entered.move_to_end(key)
            return known[2]
        made = make()
        self._entered[key] = (tensor, tensor._version, made)
        if len(self._entered) > REMEMBERED:
            self._entered.popitem(last=False)
        return made

    def sum(self, tensor: Tensor) -> Tensor:
        """A new tensor: the sum over the workers."""
        total = tensor.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=self.group)
        return total

    def largest(self, tensor: Tensor) -> Tensor:
        """A new tensor: the largest over the workers."""
        total = tensor.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, dist.ReduceOp.MAX, group=self.group)
        return total

    def join(self, local: Tensor, dim: int, split: Split) -> Tensor:
        """A new tensor: the shares of all workers put together."""
        moved = local.detach().movedim(dim, 0).contiguous()
        most = split.local_size(split.counts.index(max(split.counts)))
        if moved.shape[0] < most:
            moved = torch.cat([moved, moved.new_zeros(most - moved.shape[0], *moved.shape[1:])])
        everyone = moved.new_empty(self.degree * most, *moved.shape[1:])
        _all_gather(everyone, moved, group=self.group)
        shares = everyone.unflatten(0, (self.degree, most))
        parts, starts = [], [0] * self.degree
        for piece in split.pieces:
            for rank, count in enumerate(split.counts):
                parts.append(shares[rank, starts[rank] : starts[rank] + count * piece])
                starts[rank] += count * piece
        return torch.cat(parts).movedim(0, dim).contiguous()

    def sum_share(self, tensor: Tensor, dim: int, split: Split) -> Tensor:
        """A new tensor: this worker's share of the sum over the workers."""
        if len(set(split.counts)) > 1:
            return take(self.sum(tensor), dim, split, self.rank).contiguous()
        moved = torch.cat([take(tensor.detach(), dim, split, rank).movedim(dim, 0) for rank in range(self.degree)])
        share = moved.new_empty(moved.shape[0] // self.degree, *moved.shape[1:])
        _reduce_scatter(share, moved.contiguous(), group=self.group)
        return share.movedim(0, dim).contiguous()


def take(tensor: Tensor, dim: int, split: Split, rank: int) -> Tensor:
    """The worker's share of a whole tensor; a view if it is in one piece."""
    parts = [tensor.narrow(dim, start, length) for start, length in split.ranges(rank)]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


class _Enter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, peers: Peers) -> Tensor:
        ctx.peers = peers
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return ctx.peers.sum(grads[0]), None


class _Reduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, peers: Peers) -> Tensor:
        return peers.sum(tensor)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0], None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, dim: int, split: Split, peers: Peers) -> Tensor:
        ctx.how = (dim, split, peers.rank)
        return peers.join(tensor, dim, split)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return take(grads[0], *ctx.how), None, None, None


class _Collect(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, dim: int, split: Split, peers: Peers) -> Tensor:
        ctx.how = (dim, split, peers)
        return peers.join(tensor, dim, split)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        dim, split, peers = ctx.how
        return peers.sum_share(grads[0], dim, split), None, None, None


class _Scatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, dim: int, split: Split, peers: Peers) -> Tensor:
        ctx.how = (dim, split, peers)
        return peers.sum_share(tensor, dim, split)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        dim, split, peers = ctx.how
        return peers.join(grads[0], dim, split), None, None, None
