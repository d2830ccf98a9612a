"""What split projections and embeddings compute instead of the whole ones."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from manyhands.tensor_parallel.exchange import Peers, take
from manyhands.tensor_parallel.split import Split, evenly
from manyhands.tensor_parallel.tensor import SplitTensor


class Column:
    """Each worker computes its own output features of the whole input."""

    def __init__(self, module: Any, split: Split, peers: Peers, transposed: bool) -> None:
        self.module, self.split, self.peers, self.transposed = module, split, peers, transposed

    def __call__(self, x: Tensor) -> Tensor:
        if isinstance(x, SplitTensor):
            x.check()
            x = self.peers.collect(x.local, x.axis, x.shares)
        else:
            x = self.peers.enter(x)
        local = F.linear(x, _weight(self.module, self.transposed), self.module.bias)
        return SplitTensor(local, local.ndim - 1, self.split, self.peers)


class Row:
    """Each worker multiplies its own input features; the products are added up, for all or by parts of the sequence."""

    def __init__(self, module: Any, split: Split, peers: Peers, transposed: bool, sequence: bool) -> None:
        self.module, self.split, self.peers = module, split, peers
        self.transposed, self.sequence = transposed, sequence

    def __call__(self, x: Tensor) -> Tensor:
        local = F.linear(self._share(x), _weight(self.module, self.transposed))
        if self.sequence and local.ndim > 2 and local.shape[-2] >= self.peers.degree:
            split = evenly(local.shape[-2], self.peers.degree)
            dim = local.ndim - 2
            out: Tensor = SplitTensor(self.peers.scatter(local, dim, split), dim, split, self.peers)
        else:
            out = self.peers.reduce(local)
        bias = self.module.bias
        return out if bias is None else out + bias

    def _share(self, x: Tensor) -> Tensor:
        if isinstance(x, SplitTensor):
            x.check()
            if x.from_end == -1 and x.shares.same(self.split):
                return x.local
            x = x.whole()
        return take(self.peers.enter(x), x.ndim - 1, self.split, self.peers.rank)


class Vocabulary:
    """Each worker looks up the rows that it has; the others' are zero, and the sum is the embedding."""

    def __init__(self, module: Any, split: Split, peers: Peers) -> None:
        self.module, self.peers = module, peers
        self.start, self.rows = split.ranges(peers.rank)[0]

    def __call__(self, ids: Tensor) -> Tensor:
        mine = (ids >= self.start) & (ids < self.start + self.rows)
        padding = getattr(self.module, "padding_idx", None)
        if padding is not None:
            padding = padding - self.start if self.start <= padding < self.start + self.rows else None
        found = F.embedding((ids - self.start).where(mine, 0), self.module.weight, padding)
        return self.peers.reduce(found.where(mine.unsqueeze(-1), 0.0))


def _weight(module: Any, transposed: bool) -> Any:
    return module.weight.t() if transposed else module.weight
