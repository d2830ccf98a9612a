"""A worker of servers that wait for nobody: claim a share, pull, compute, push. See stale.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from manyhands.collective import Block, assign_blocks
from manyhands.errors import UserError
from manyhands.sync.policy import Finished, Piece, Policy, Replica, Task
from manyhands.sync.server.division import Division
from manyhands.sync.server.keeper import BufferRegion
from manyhands.sync.server.line import Line
from manyhands.sync.server.messages import GIVEN, Claim, Given, Hello, Over, Pull, Push, Version, Welcome, Why
from manyhands.sync.server.work import Share
from manyhands.sync.tables import TableSide
from manyhands.sync.waiting import OnWait
from manyhands.transport import GroupError
from manyhands.wire import Codec

if TYPE_CHECKING:
    from manyhands.tables import SparseTable

T = TypeVar("T")
_VERSION: Codec[Version] = Codec(Version)


def _claim(line: Line) -> Given | Over:
    line.say(Claim())
    return line.hear(GIVEN)


class StaleWorker(Policy):
    """A worker's side of servers that wait for nobody.

    Args:
        worker: its number, unique in the run.
        division: of the parameters.
        link: waits for a connection to a server and gives it: called at the beginning, and when a server was lost.
    """

    brings_weights = True

    def __init__(
        self,
        task: Task,
        worker: int,
        division: Division,
        link: Callable[[int], Line],
        on_wait: OnWait = lambda waits: None,
    ) -> None:
        super().__init__(task._replace(balance=False), None, on_wait)
        self._worker, self._division, self._link = worker, division, link
        self._parts = assign_blocks(task.micro_batches, 1)
        """The blocks that shares stand for, as the chief says."""
        self._share: Share | None = None
        self._clock: int | None = None
        self._number = 0
        self.over: Why | None = None
        """Why there are no more shares."""
        self._versions = [0] * division.servers
        region = torch.empty(division.layout.size, dtype=torch.uint8)
        self._flats, self._views = division.layout.flats(region), division.layout.views(region)
        self.described = "to servers, which apply each worker's as they come"
        self._lines: dict[int, Line] = {}

    @property
    def block(self) -> Block:
        return self._parts[self._share.index if self._share else 0]

    @property
    def frame(self) -> Block:
        return self.block

    @property
    def sums_buffers(self) -> bool:
        return True

    def open(self, params: Sequence[Tensor], buffers: Sequence[Tensor]) -> _Push:
        self._buffers = list(buffers)
        self._room = BufferRegion(buffers)
        self._push = _Push(self._division, buffers, self._begin_push if self.task.clip_grad_norm is None else None)
        return self._push

    def claim(self) -> Share | None:
        """The next share; None when there will be none. `over` says why."""
        self._on_wait(True)
        self._share = None
        answer = self._with(0, _claim)
        self._on_wait(False)
        if isinstance(answer, Over):
            self.over = answer.why
            return None
        self._share, self._clock = answer.share, answer.clock
        return self._share

    def open_tables(self, tables: Mapping[str, SparseTable], folder: Path | None, step: int) -> TableSide:
        raise UserError(
            f"the model has tables ({', '.join(tables)}), and every step must find their rows as the one before left "
            "them. Use --sync server with staleness=0."
        )

    def arrive(self) -> None:
        """Pull the weights, what the forward pass needs first first."""
        for server in range(self._division.servers):
            self._with(server, lambda line, server=server: self._pull(line, server))

    def update(self, replica: Replica, finished: Finished) -> float | None:
        assert self._share is not None
        self._on_wait(False)  # from here on it is an exchange
        norm, scale = self._norm(replica)
        self._number += 1
        push = Push(
            worker=self._worker,
            number=self._number,
            share=self._share,
            micro_batches=self.block.size,
            losses=tuple(finished.losses),
            norm=norm,
            scale=scale,
            unused=tuple(sorted(finished.unused)),
            others=dict(finished.others) if self.block.start == 0 else {},
            version=0,
        )
        for server in reversed(range(self._division.servers)):  # the chief last: then all have it
            self._with(server, lambda line, server=server: self._give(line, server, push))
        self._push.clear()
        return norm

    def close(self) -> None:
        for line in self._lines.values():
            line.group.close()

    def _norm(self, replica: Replica) -> tuple[float | None, float]:
        """The norm of this share's gradient, and the factor that clipping makes of it."""
        limit = self.task.clip_grad_norm
        if limit is None:
            return None, 1.0
        norms = torch._foreach_norm(self._push.outputs[0][: len(self._division.shards)])
        norm = float(torch.linalg.vector_norm(torch.stack([n.float() for n in norms])))
        replica.check_norm(norm)
        return norm, min(1.0, limit / (norm + 1e-6))

    def _with(self, server: int, talk: Callable[[Line], T]) -> T:
        """Talk to a server, or to the one that takes its place."""
        while True:
            try:
                if server not in self._lines:
                    self._greet(server)
                return talk(self._lines[server])
            except GroupError:
                if server in self._lines:
                    self._lines.pop(server).group.close(patience=0)
                self._push.forget(server)

    def _greet(self, server: int) -> None:
        line = self._link(server)
        self._lines[server] = line
        answer = line.ask(Hello(share=self._share, clock=self._clock, number=self._number), Welcome)
        if answer.parts is not None:
            self._parts = assign_blocks(self.task.micro_batches, answer.parts)

    def _pull(self, line: Line, server: int) -> None:
        buckets = list(reversed(self._division.buckets_of(server)))
        self._versions[server] = line.ask(Pull(), Version).version
        with_buffers = [self._room.region] if server == 0 and self._room.region.numel() else []
        line.take([*(self._flats[bucket] for bucket in buckets), *with_buffers])
        for bucket in buckets:
            self._division.put_bucket(bucket, self._views)
        if with_buffers:
            with torch.no_grad():
                for buffer, view in zip(self._buffers, self._room.views, strict=True):
                    buffer.copy_(view)

    def _begin_push(self, server: int, flat: Tensor) -> bool:
        """Send a bucket that is ready; returns whether it went."""
        if server not in self._lines:
            return False
        try:
            self._lines[server].give([flat])
        except GroupError:
            return False
        return True

    def _give(self, line: Line, server: int, push: Push) -> None:
        line.say(replace(push, version=self._versions[server]))
        self._push.give_rest(line, server)
        line.hear(_VERSION)


class _Push:
    """Takes a share's gradients, and sends them to their servers as they come.

    Args:
        begin: sends a bucket; None keeps all until the end, as clipping needs.
    """

    def __init__(
        self, division: Division, buffers: Sequence[Tensor], begin: Callable[[int, Tensor], bool] | None
    ) -> None:
        self._division, self._begin = division, begin
        region = torch.empty(division.layout.size, dtype=torch.uint8)
        self._flats, views = division.layout.flats(region), division.layout.views(region)
        self._changes = BufferRegion(buffers)
        self.outputs = [[*views, *self._changes.views]]
        self.pieces: Sequence[Piece] = division.pieces + [Piece(len(division.params) + i) for i in range(len(buffers))]
        count = len(views)
        self.buckets = [list(bucket.items) for bucket in division.layout.buckets]
        self.buckets += [list(range(count, count + len(buffers)))] if buffers else []
        self._first_buffer = count
        self._ready: set[int] = set()
        self._sent: dict[int, int] = {}
        """How many of each server's buckets have gone, in order."""

    def announce(self, bucket: int) -> None:
        if bucket >= len(self._division.layout.buckets):
            return
        self._ready.add(bucket)
        if self._begin is None:
            return
        server = self._division.server_of(bucket)
        buckets = self._division.buckets_of(server)
        while (sent := self._sent.get(server, 0)) < len(buckets) and buckets[sent] in self._ready:
            if not self._begin(server, self._flats[buckets[sent]]):
                break
            self._sent[server] = sent + 1

    def finish(self, facts: bytes) -> list[bytes]:
        return [facts]

    def total(self, item: int) -> Tensor | None:
        return self.outputs[0][item] if item >= self._first_buffer else None

    def give_rest(self, line: Line, server: int) -> None:
        """Send what has not gone yet."""
        buckets = self._division.buckets_of(server)
        line.give([self._flats[bucket] for bucket in buckets[self._sent.get(server, 0) :]])
        self._sent[server] = len(buckets)
        if server == 0 and self._changes.region.numel():
            line.give([self._changes.region])

    def forget(self, server: int) -> None:
        """Forget what was sent to this server: it is lost."""
        self._sent.pop(server, None)

    def clear(self) -> None:
        """Forget everything: all has arrived."""
        self._ready.clear()
        self._sent.clear()
