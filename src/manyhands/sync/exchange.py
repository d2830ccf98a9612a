"""All-reduce by law 1 between the workers of a host, through shared memory.

Every worker writes its subtrees into its own region. Worker r owns the r-th share of every bucket: once all
workers have announced the bucket, it adds the subtrees of that share in tree order into its result area, and
announces that; then everyone copies the shares out. Each byte is read and written once per phase, as in
a reduce-scatter followed by an all-gather, and the order of additions is the job's, whoever does them.

Cost for a gradient of G bytes in p subtrees on n workers: every worker reads p G / n, writes G / n, reads G.
A region is rewritten only after the step's end, which every peer reaches only when it has read what it needs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from manyhands.collective import Node, fold
from manyhands.sync.layout import Layout
from manyhands.transport import READY, REDUCED, Mesh, SharedMemory


class Exchange:
    """Sums the workers' subtrees; one object per gang.

    Args:
        layout: where the tensors lie.
        nodes: per rank, the subtrees that it contributes, in order; together they tile the tree.
        total: leaves of the tree.
        mesh: links to the other workers.
        device: where the caller's tensors live; others than the CPU are staged through a flat copy.
    """

    def __init__(
        self, layout: Layout, nodes: Sequence[Sequence[Node]], total: int, mesh: Mesh, device: torch.device
    ) -> None:
        self.layout = layout
        self.mesh = mesh
        self._staged = device.type != "cpu"
        plan = fold([node for row in nodes for node in row], total)
        assert len(plan.rest) == 1, "the workers' blocks do not tile the tree"
        self._adds = plan.adds
        pieces = len(nodes[mesh.rank])
        self._memory = SharedMemory((pieces + 1) * layout.size, name="manyhands-exchange")
        memories = mesh.share(self._memory)
        regions = [_regions(m, len(row) + 1, layout.size) for m, row in zip(memories, nodes, strict=True)]
        for memory in memories:
            memory.close()
        self._operands = [layout.flats(region) for row in regions for region in row[:-1]]
        self._results = [layout.flats(row[-1]) for row in regions]
        own = regions[mesh.rank][:-1]
        staging = [torch.empty(layout.size, dtype=torch.uint8, device=device) for _ in own] if self._staged else own
        self._staging = [layout.flats(region) for region in staging]
        self._own = [layout.flats(region) for region in own]
        self.outputs = [layout.views(region) for region in staging]
        """`outputs[piece][item]`: write the finished subtrees here."""
        self._total = torch.empty(layout.size, dtype=torch.uint8, device=device)
        self._total_flats = layout.flats(self._total)
        self.totals = layout.views(self._total)
        """`totals[item]`: the sums, private to this worker, valid after `finish`."""
        self._step = 0
        self._announced: set[int] = set()
        self._reduced: set[int] = set()

    def announce(self, bucket: int) -> None:
        """Say that this worker's subtrees of the bucket are written, and get on with what the others have said."""
        if self._staged:
            for staged, shared in zip(self._staging, self._own, strict=True):
                shared[bucket].copy_(staged[bucket])
        self._announced.add(bucket)
        self.mesh.note(READY, bucket, self._step)
        self.mesh.progress()
        for ready in sorted(self._announced - self._reduced):
            if self.mesh.noted(READY, ready, self._step):
                self._reduce(ready)

    def finish(self, facts: bytes) -> list[bytes]:
        """Complete the step: all sums are in `totals`. Also gathers everyone's small `facts`, in rank order.

        Raises:
            PeerLostError: a worker died before it had given all it had to give.
        """
        buckets = range(len(self.layout.buckets))
        gathered = self.mesh.all_gather(facts, "exchanging gradients")
        for bucket in buckets:
            if bucket not in self._reduced:
                self.mesh.wait_noted(READY, bucket, self._step, "exchanging gradients")
                self._reduce(bucket)
        for bucket in buckets:
            self.mesh.wait_noted(REDUCED, bucket, self._step, "collecting gradients")
            self._collect(bucket)
            self.mesh.forget(READY, bucket, self._step)
            self.mesh.forget(REDUCED, bucket, self._step)
        self._step += 1
        self._announced.clear()
        self._reduced.clear()
        return gathered

    def close(self) -> None:
        self.mesh.close()

    def _reduce(self, bucket: int) -> None:
        """Add up this worker's share, in tree order. Intermediate sums overwrite their left operand."""
        share = self.layout.buckets[bucket].share(self.mesh.rank, self.mesh.world)
        result = self._results[self.mesh.rank][bucket][share]
        stack: list[Tensor] = []
        last = len(self._adds) - 1
        for position, (operand, adds) in enumerate(zip(self._operands, self._adds, strict=True)):
            stack.append(operand[bucket][share])
            for remaining in range(adds, 0, -1):
                right, left = stack.pop(), stack.pop()
                target = result if position == last and remaining == 1 else left
                stack.append(torch.add(left, right, out=target))
        self._reduced.add(bucket)
        self.mesh.note(REDUCED, bucket, self._step)

    def _collect(self, bucket: int) -> None:
        total = self._total_flats[bucket]
        for rank, result in enumerate(self._results):
            share = self.layout.buckets[bucket].share(rank, self.mesh.world)
            total[share].copy_(result[bucket][share])


def _regions(memory: SharedMemory, count: int, size: int) -> list[Tensor]:
    flat = torch.frombuffer(memory.view, dtype=torch.uint8, count=count * size)
    return [flat[i * size : (i + 1) * size] for i in range(count)]
