"""How the trainable parameters of a model are divided among servers, and where each shard lies in a flat region."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from manyhands.errors import UserError
from manyhands.sync.layout import Layout, lay_out
from manyhands.sync.policy import Piece
from manyhands.sync.server.shards import assign
from manyhands.tables import tables_of

_BUCKET = 4 << 20
"""Bytes that travel together, over all servers: buckets go one after another, and with few of them servers wait."""


class Division:
    """How the parameters are divided among servers: the same on every process that computes it.

    Args:
        model: whole.
        weights: per server, its bandwidth.
        cut: whether tensors may be cut.

    Attributes:
        params: the trainable ones, in the order in which backward yields gradients.
        shards: the items of the layout.
        bucket: bytes that travel together.
        layout: its buckets hold shards of one server each.

    Raises:
        UserError: there are more servers than tensors to hold.
    """

    def __init__(self, model: nn.Module, weights: Sequence[float], cut: bool) -> None:
        self.params = [p for p in reversed(list(model.parameters())) if p.requires_grad]
        self.shards = assign(
            [p.numel() for p in self.params], [p.dtype.itemsize for p in self.params], weights, cut=cut
        )
        self.servers = len(weights)
        self.bucket = max(1 << 20, _BUCKET // self.servers)
        idle = self.servers - len({shard.server for shard in self.shards})
        if idle and not tables_of(model):  # of which every server has some rows
            raise UserError(
                f"of {self.servers} servers {idle} would hold nothing: the model has {len(self.params)} trainable "
                f"tensors. Use servers={self.servers - idle}."
            )
        self.pieces = [Piece(s.tensor, s.start, s.stop) for s in self.shards]
        with torch.no_grad():
            tensors = [piece.of(self.params[piece.tensor]) for piece in self.pieces]
        self.layout: Layout = lay_out(tensors, self.bucket, goals=[s.server for s in self.shards])

    def server_of(self, bucket: int) -> int:
        return self.shards[self.layout.buckets[bucket].items[0]].server

    def buckets_of(self, server: int) -> list[int]:
        """The buckets that a server holds, in order."""
        return [b for b in range(len(self.layout.buckets)) if self.server_of(b) == server]

    def put_bucket(self, bucket: int, views: Sequence[Tensor]) -> None:
        """Copy a bucket's weights, viewed by item, into the parameters."""
        for item in self.layout.buckets[bucket].items:
            self.put(item, views[item])

    @torch.no_grad()
    def put(self, item: int, value: Tensor) -> None:
        """Copy a shard's weights into its parameter."""
        shard = self.shards[item]
        param = self.params[shard.tensor]
        target = param if shard.stop is None else param.view(-1)[shard.start : shard.stop]
        target.copy_(value)
