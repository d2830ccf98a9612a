"""Reduce-scatter in the job's order, for FSDP.

FSDP reduces the gradients of every micro-batch over the replicas as soon as they exist, which adds micro-batch i of all
replicas first. The job's tree adds a replica's micro-batches first. So every replica sends each other one its share, as
many bytes as in a reduce-scatter, and the owner folds what it gets by replica; with the last micro-batch it puts the
replicas' subtrees together. Memory: log2(micro-batches) + 1 shares per replica instead of one share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from manyhands.collective import assign_blocks, fold, leaves
from manyhands.errors import UserError
from manyhands.sync import LocalSum
from manyhands.torch.backend import ProcessGroup


class TreeReduceScatter:
    """The sums of one FSDP module, in the form that `set_custom_reduce_scatter` takes.

    FSDP adds up what it is given, so it gets zeros until the sum is complete.

    Args:
        micro_batches: of the whole batch; `replicas` divides it.
    """

    def __init__(self, micro_batches: int, replicas: int) -> None:
        self._total = micro_batches
        blocks = assign_blocks(micro_batches, replicas)
        self._each = blocks[0].size
        self._pieces = [block.pieces(micro_batches) for block in blocks]
        self._plans = [fold(leaves(block.start, block.stop), micro_batches) for block in blocks]
        self._sums: list[LocalSum] = []
        self._subtrees: list[list[Tensor]] = []
        self._count = 0

    def begin_step(self) -> None:
        self._sums, self._subtrees, self._count = [], [], 0

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: dist.ProcessGroup, op: Any, async_op: bool = False
    ) -> None:
        received = torch.empty_like(input_tensor)
        assert isinstance(group, ProcessGroup)
        parts = group.size()
        group.transport.all_to_all(received.chunk(parts), input_tensor.chunk(parts)).result()
        if not self._sums:
            self._subtrees = [[torch.empty_like(output_tensor) for _ in pieces] for pieces in self._pieces]
            self._sums = [
                LocalSum(plan, [[subtree] for subtree in subtrees])
                for plan, subtrees in zip(self._plans, self._subtrees, strict=True)
            ]
        if self._subtrees[0][0].shape != output_tensor.shape:
            raise UserError(
                "some parameters take part in some micro-batches only, and shard=2 or 3 sums them by micro-batch. Use "
                "shard=1."
            )
        for replica, part in zip(self._sums, received.chunk(len(self._sums)), strict=True):
            replica.push(self._count, [0], [part])
        self._count += 1
        output_tensor.zero_()
        if self._count == self._each:
            output_tensor.copy_(self._whole())

    def _whole(self) -> Tensor:
        nodes = [node for pieces in self._pieces for node in pieces]
        parts = [subtree for subtrees in self._subtrees for subtree in subtrees]
        total = LocalSum(fold(nodes, self._total), None)
        for leaf, part in enumerate(parts):
            total.push(leaf, [0], [part])
        return total.result(0)
