"""Sums gradients over the workers, in the order of the job, while backward goes on.

Each worker writes its finished subtrees into its own memory and announces bucket after bucket. The buckets travel as a
forest run in aligned order (collective/compile.py): whatever the forest, the same additions are made, so the
result is the same bits as one worker's. They are issued in the order of their numbers on every worker, whatever
order the gradients come in, and run on the group's thread.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import torch
from torch import Tensor

from manyhands.collective import (
    MEMORY_CHUNK,
    NETWORK_CHUNK,
    Contribution,
    Forest,
    Node,
    compile_forest,
    count_ahead,
    count_chunks,
    forest_to_json,
)
from manyhands.sync.layout import Layout
from manyhands.sync.policy import Piece
from manyhands.sync.waiting import OnWait, wait_for
from manyhands.transport import Group


class Exchange:
    """Sums the workers' subtrees; one object per gang.

    Args:
        layout: where the tensors lie.
        nodes: per rank, the subtrees that it contributes, in order; together they tile the tree.
        total: leaves of the tree.
        group: the gang.
        device: where the caller's tensors live; others than the CPU are staged through a flat copy.
        forest: how buckets travel, or how each does.
        on_wait: told when `finish` has to wait for others.
        pieces: what the layout's items are; by default its tensors, one after another.
    """

    def __init__(
        self,
        layout: Layout,
        nodes: Sequence[Sequence[Node]],
        total: int,
        group: Group,
        device: torch.device,
        forest: Forest | Sequence[Forest],
        on_wait: OnWait = lambda waits: None,
        pieces: Sequence[Piece] = (),
    ) -> None:
        self.layout = layout
        self.pieces = pieces or [Piece(item) for item in range(len(layout.shapes))]
        self.buckets = [list(bucket.items) for bucket in layout.buckets]
        self.group = group
        self._on_wait = on_wait
        self._forests = [forest] * len(layout.buckets) if isinstance(forest, Forest) else list(forest)
        self._contribution = Contribution(tuple(map(tuple, nodes)), total)
        forests = [forest_to_json(f) for f in dict.fromkeys(self._forests)]
        self._spans_hosts = group.cluster is not None
        plan = f"{forests} {self._contribution} {layout} {self._spans_hosts}"
        self._digest = hashlib.sha256(plan.encode()).digest()
        own = [torch.empty(layout.size, dtype=torch.uint8) for _ in nodes[group.rank]]
        total_ = torch.empty(layout.size, dtype=torch.uint8)
        self._staged = device.type != "cpu"
        staging = [torch.empty_like(t, device=device) for t in (*own, total_)] if self._staged else [*own, total_]
        self._copies = list(zip(map(layout.flats, staging), map(layout.flats, (*own, total_)), strict=True))
        self.outputs = [layout.views(region) for region in staging[:-1]]
        """`outputs[piece][item]`: write the finished subtrees here."""
        self.totals = layout.views(staging[-1])
        """`totals[item]`: the sums, private to this worker, valid after `finish`."""
        self._programs = [self._program(bucket) for bucket in range(len(layout.buckets))]
        self._announced: set[int] = set()
        self._issued: list[Future[Any]] = []

    def announce(self, bucket: int) -> None:
        """Say that this worker's subtrees of the bucket are written."""
        if self._staged:
            for staged, sent in self._copies[:-1]:
                sent[bucket].copy_(staged[bucket])
        self._announced.add(bucket)
        while len(self._issued) in self._announced:
            self._issue(len(self._issued))

    def finish(self, facts: bytes) -> list[bytes]:
        """Complete the step: all sums are in `totals`. Also gathers everyone's small `facts`, in rank order.

        Raises:
            PeerLostError: a worker died before it had given all it had to give.
        """
        issued, self._issued = self._issued, []
        self._announced.clear()
        gathered = self.group.all_gather_bytes(facts, lambda future: wait_for(future, self._on_wait))
        for bucket, future in enumerate(issued):
            wait_for(future, self._on_wait)
            if self._staged:
                staged, received = self._copies[-1]
                staged[bucket].copy_(received[bucket])
        return gathered

    def total(self, item: int) -> Tensor | None:
        """An item's sum, after `finish`."""
        return self.totals[item]

    def _program(self, bucket: int) -> Any:
        place, forest = self.layout.buckets[bucket], self._forests[bucket]
        chunks = count_chunks(forest, place.size, NETWORK_CHUNK if self._spans_hosts else MEMORY_CHUNK)
        program = compile_forest(
            forest,
            self.group.rank,
            place.numel,
            chunks=chunks,
            association="aligned",
            contribution=self._contribution,
            in_place=not self.outputs,
            ahead=count_ahead(forest, place.size, chunks) if self._spans_hosts else 0,
        )
        return self.group.encode(program, place.dtype.itemsize)

    def _issue(self, bucket: int) -> None:
        buffers = [sent[bucket] for _, sent in self._copies]
        text, dtype = f"exchange of bucket {bucket}", self.layout.buckets[bucket].dtype
        self._issued.append(self.group.run(text, self._programs[bucket], buffers, dtype, self._digest))
