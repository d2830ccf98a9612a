"""Synchronous parameter servers: workers push gradients, servers apply them, workers pull weights.

Problem: all-reduce needs every worker to hold the optimizer's state and to apply the same update again.
Idea: the parameters are shared out among servers (shards.py). A bucket of gradients goes to its server as soon as
backward has made it, as a star whose root adds up in the order of law 1 and has no data of its own; so the sum has the
bits of an all-reduce. When all is there the servers apply it and hand out the new weights, those of the front layers
first, while the workers go on: a module waits for its own weights only (arrivals.py). A norm is put together from the
servers' norms per tensor; a tensor that is cut is put together for it, because the last bit of the norm counts.
Cost: n M / S into and out of each of S servers, M into and out of each of n workers.
Source: Li et al., "Scaling distributed machine learning with the parameter server", OSDI 2014.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from manyhands.collective import MEMORY_CHUNK, compile_forest, count_chunks
from manyhands.state import gather_trees
from manyhands.sync.allreduce import sums
from manyhands.sync.exchange import Exchange
from manyhands.sync.layout import lay_out
from manyhands.sync.policy import Finished, Piece, Policy, Replica, Task
from manyhands.sync.server.arrivals import Arrivals
from manyhands.sync.server.division import Division
from manyhands.sync.server.holding import Holding, join_state
from manyhands.sync.server.shards import Shard
from manyhands.sync.server.stars import Stars
from manyhands.sync.tables import RemoteTables, ServedTables, Subtrees, TableSide
from manyhands.sync.waiting import OnWait
from manyhands.transport import Group

if TYPE_CHECKING:
    from manyhands.tables import SparseTable

_CUT_TAG = 0xC07


class SynchronousServer(Policy):
    """The side of a worker, or of a server: the last `servers` ranks of the gang.

    Args:
        cut: whether the optimizer works element by element, so that tensors may be cut.
        overlap: have modules wait for their own weights; not for compiled models.
    """

    brings_weights = True

    def __init__(
        self,
        task: Task,
        gang: Group,
        on_wait: OnWait = lambda waits: None,
        servers: int = 1,
        cut: bool = True,
        overlap: bool = True,
    ) -> None:
        self._servers, self._cut, self._overlap = servers, cut, overlap
        self._arrivals: Arrivals | None = None
        self._group = gang
        super().__init__(task, gang, on_wait)
        self._stars = Stars(self.world, self.workers, gang.cluster)
        self.serves = self.rank >= self.workers
        many = f"{servers} servers, which apply them and hand out the weights" if servers > 1 else "one server"
        self.described = f"to {many}"
        self._pulls: list[tuple[int, Future[Any]]] = []

    @property
    def workers(self) -> int:
        return self._group.world - self._servers

    def restore(self, replica: Replica, kept: Mapping[str, Any]) -> None:
        self._division = division = Division(replica.model, self._stars.weights(), self._cut)
        self._pull = _Pull(division, self._stars, self._group)
        if self.serves:
            own = {i: s for i, s in enumerate(division.shards) if s.server == self.rank - self.workers}
            views = self._pull.views
            self._holding = Holding(replica.optimizer, division.params, own, {item: views[item] for item in own})
        else:
            replica.optimizer.state.clear()
            replica.optimizer._opt_called = True  # type: ignore[attr-defined]  # by a server; schedulers ask
            if self._overlap:
                self._arrivals = Arrivals(replica.model, division.params, self._take, self.arrive)

    def open(self, params: Sequence[Tensor], buffers: Sequence[Tensor]) -> _Push:
        self._push = _Push(self, params, buffers)
        return self._push

    @property
    def fold(self) -> Any:
        return sums(self.task, self.blocks, self.rank)[0]

    def open_tables(self, tables: Mapping[str, SparseTable], folder: Path | None, step: int) -> TableSide:
        if not self.serves:
            return RemoteTables(tables, self._group, self.workers)

        def subtrees() -> Subtrees:
            return sums(self.task, self.blocks, self.rank)[1:]  # before blocks change, the step is applied

        return ServedTables(tables, folder, step, self._group, self.workers, subtrees)

    def arrive(self) -> None:
        self._pulls = self._pull.take(self._pulls, self._wait)

    def before_forward(self) -> None:
        if self._arrivals is not None:
            self._arrivals.expect()
        else:
            self.arrive()

    def close(self) -> None:
        if self._arrivals is not None:
            self._arrivals.close()
        super().close()

    def update(self, replica: Replica, finished: Finished) -> float | None:
        norm = self._norm(finished)
        if norm is not None:
            replica.check_norm(norm)
        if self.serves:
            self._holding.give(self._push.totals, finished.unused)
            if norm is not None:
                self._holding.clip(self.task.clip_grad_norm, norm)
            replica.move()
        replica.advance(finished.losses)
        self._pulls = self._pull.issue()
        if self.serves:
            self.arrive()
        return norm

    def capture(self, state: dict[str, Any]) -> dict[str, Any]:
        own = self._holding.capture() if self.serves else {}
        parts = gather_trees(self._group, own)[self.workers :]
        return state | {"optimizer": join_state(state["optimizer"], parts)} if parts else state

    def _take(self, params: set[int]) -> None:
        """Wait for these parameters, which are needed now."""
        self._pulls = self._pull.take(self._pulls, self._wait, params)

    def _norm(self, finished: Finished) -> float | None:
        """The norm of the whole gradient, as `torch.nn.utils.clip_grad_norm_` computes it."""
        if self.task.clip_grad_norm is None:
            return None
        norms = self._tensor_norms(finished.unused) if self.serves else {}
        found: dict[int, float] = {}
        for text in self._group.all_gather_bytes(json.dumps(list(norms.items())).encode(), self._wait):
            found |= dict(json.loads(text))
        # Tensors are numbered from the last. The norm of one number is that number, and torch joins norms as always.
        stand_ins = [
            torch.tensor([found[t]], dtype=self._division.params[t].dtype) for t in sorted(found, reverse=True)
        ]
        return float(torch.nn.utils.get_total_norm(stand_ins))

    def _tensor_norms(self, unused: frozenset[int]) -> dict[int, float]:
        """Norms of the tensors that begin on this server."""
        me, totals = self.rank - self.workers, self._push.totals
        norms, runs = {}, {}
        for item, shard in enumerate(self._division.shards):
            if shard.tensor in unused:
                continue
            if shard.stop is None:
                if shard.server == me:
                    norms[shard.tensor] = float(torch.linalg.vector_norm(totals[item]))
            else:
                runs.setdefault(shard.tensor, []).append((item, shard))
        for tensor, parts in runs.items():
            home = parts[0][1].server
            if home != me:
                for item, shard in parts:
                    if shard.server == me:
                        self._wait(self._group.send(totals[item], self.workers + home, _CUT_TAG + tensor))
                continue
            whole = [totals[i] if s.server == me else torch.empty_like(self._flat(s)) for i, s in parts]
            for other, (_, shard) in zip(whole, parts, strict=True):
                if shard.server != me:
                    self._wait(self._group.receive(other, self.workers + shard.server, _CUT_TAG + tensor))
            norms[tensor] = float(torch.linalg.vector_norm(torch.cat(whole).view(self._division.params[tensor].shape)))
        return norms

    def _flat(self, shard: Shard) -> Tensor:
        return Piece(shard.tensor, shard.start, shard.stop).of(self._division.params[shard.tensor].detach())


class _Push(Exchange):
    """Takes gradients to their servers, and gives buffer changes back."""

    def __init__(self, policy: SynchronousServer, params: Sequence[Tensor], buffers: Sequence[Tensor]) -> None:
        shards, stars = policy._division.shards, policy._stars
        pieces = policy._division.pieces + [Piece(len(params) + i) for i in range(len(buffers))]
        everything = [*params, *buffers]
        goals = [*(s.server for s in shards), *[0] * len(buffers)]
        tensors = [piece.of(everything[piece.tensor].detach()) for piece in pieces]
        layout = lay_out(tensors, policy._division.bucket, boundary=len(shards), goals=goals)
        _, nodes, total = sums(policy.task, policy.blocks, policy.rank)
        self._first_buffer = len(shards)
        forests = [
            stars.forest("all_reduce" if bucket.items[0] >= len(shards) else "reduce", goals[bucket.items[0]])
            for bucket in layout.buckets
        ]
        self._serves = policy.serves
        super().__init__(layout, nodes, total, policy._group, params[0].device, forests, policy._on_wait, pieces)

    def finish(self, facts: bytes) -> list[bytes]:
        if self._serves:
            for bucket in range(len(self.buckets)):
                self.announce(bucket)
        return super().finish(facts)

    def total(self, item: int) -> Tensor | None:
        return None if self._serves or item < self._first_buffer else self.totals[item]


class _Pull:
    """Takes weights from their servers to all workers.

    Attributes:
        views: the items, in a region of their own: on a server they are the weights that it holds.
    """

    def __init__(self, division: Division, stars: Stars, gang: Group) -> None:
        self._division, self._gang = division, gang
        self._layout = layout = division.layout
        region = torch.empty(layout.size, dtype=torch.uint8)
        self._flats, self.views = layout.flats(region), layout.views(region)
        self._programs = []
        for number, bucket in enumerate(layout.buckets):
            forest = stars.forest("broadcast", division.server_of(number))
            chunks = count_chunks(forest, bucket.size, MEMORY_CHUNK)
            program = compile_forest(forest, gang.rank, bucket.numel, chunks=chunks)
            self._programs.append(gang.encode(program, bucket.dtype.itemsize))
        self._digest = hashlib.sha256(f"{layout} {division.shards}".encode()).digest()

    def issue(self) -> list[tuple[int, Future[Any]]]:
        """Begin to hand weights out: what backward came to last is needed first."""
        pulls = []
        for number in reversed(range(len(self._layout.buckets))):
            bucket = self._layout.buckets[number]
            text = f"pull of bucket {number}"
            program, buffers = self._programs[number], [self._flats[number]]
            pulls.append((number, self._gang.run(text, program, buffers, bucket.dtype, self._digest)))
        return pulls

    def take(
        self, pulls: Sequence[tuple[int, Future[Any]]], wait: Any, params: set[int] | None = None
    ) -> list[tuple[int, Future[Any]]]:
        """Wait for these parameters, or for all, and put what has come into the model. Returns what is on its way."""
        rest = []
        for number, future in pulls:
            held = {self._division.shards[item].tensor for item in self._layout.buckets[number].items}
            if params is None or held & params:
                wait(future)
                self._division.put_bucket(number, self.views)
            else:
                rest.append((number, future))
        return rest
