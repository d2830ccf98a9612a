"""Parameter servers that wait for nobody: bounded staleness, and none.

Problem: where all wait for all, one slow or lost worker stops everyone.
Idea: a worker asks server 0, the chief, for a share of a step, pulls the weights as they are, computes, and pushes its
gradient, which every server applies to its shards at once. The chief hands shares out to whoever is free and may
begin (clocks.py, work.py), so a lost worker costs its share, which another gets. Every server has a copy on the next
one, which has applied a push before the push is acknowledged; a server that is lost is replaced by one that starts from
that copy, and workers push again what was not acknowledged. A push that was applied already is only acknowledged.
Cost: every share moves the weights twice; a copy moves each push once more, between servers.
Source: Dean et al., "Large scale distributed deep networks", NIPS 2012; chain replication for parameter servers, Li et
al., OSDI 2014.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, assert_never

import torch
from torch import Tensor

from manyhands.state import pack, unpack
from manyhands.sync.server.chief import Chief, Committed
from manyhands.sync.server.division import Division
from manyhands.sync.server.keeper import BufferRegion, Keeper
from manyhands.sync.server.line import Line
from manyhands.sync.server.messages import (
    ERRANDS,
    QUESTIONS,
    Adopt,
    AskReplica,
    AskState,
    Claim,
    Copy,
    Done,
    Given,
    Hello,
    Over,
    Pull,
    Push,
    TellOver,
    Tree,
    Version,
    Welcome,
    Why,
)
from manyhands.transport import GroupError
from manyhands.wire import Data


class StaleServer:
    """A parameter server that waits for nobody.

    Args:
        division: of the parameters.
        keeper: its own shards.
        copy: its copy of the shards of the server before it; None if there is only one server.
        chief: on server 0.
        buffers: the model's floating-point buffers.
        wake: called when something has happened that the process's main thread may want to know.

    Attributes:
        over: why the work is over, for now or for good; None while it is not.
    """

    def __init__(
        self,
        division: Division,
        keeper: Keeper,
        copy: Keeper | None,
        chief: Chief | None,
        buffers: list[Tensor],
        wake: Callable[[], None],
    ) -> None:
        self.division, self.keeper, self.copy, self.chief = division, keeper, copy, chief
        self.over: Why | None = None
        self.received = self.sent = 0
        """Bytes of gradients and weights, from and to workers."""
        self._buffers, self._wake = buffers, wake
        self._changed = threading.Condition()
        self._copying = threading.Lock()
        self._lines = threading.Condition()
        self._peers: dict[int, tuple[Line, threading.Lock]] = {}
        self._behind = False
        """Whether the copy on the next server has to be made anew."""
        self.chiefs_copy: Data | None = None
        """What the chief knew when it last said so; on server 1."""
        self._workers: dict[int, Line] = {}

    # Workers

    def serve(self, worker: int, line: Line) -> None:
        """Answer a worker until it is gone."""
        region = torch.empty(self.division.layout.size, dtype=torch.uint8)
        layout, buckets = self.division.layout, self.keeper.buckets
        views, flats = layout.views(region), layout.flats(region)
        out = [torch.empty_like(self.keeper.flats[bucket]) for bucket in buckets]
        changes = BufferRegion(self._buffers if self.keeper.server == 0 else [])
        self._workers[worker] = line
        try:
            while True:
                question = line.hear(QUESTIONS)
                match question:
                    case Hello():
                        line.say(self._hello(worker, question))
                    case Claim():
                        line.say(self._claim(worker, line))
                    case Pull():
                        self._pull(line, out)
                    case Push():
                        line.take([*(flats[bucket] for bucket in buckets), *self._with_buffers(changes.region)])
                        line.say(self._push(question, views, flats, changes))
                    case _:
                        assert_never(question)
        except GroupError:
            pass  # it is gone, or leaves
        finally:
            with self._changed:
                if self._workers.get(worker) is line:
                    del self._workers[worker]
                    if self.chief is not None:
                        self.chief.leave(worker)
                self._changed.notify_all()

    def _hello(self, worker: int, hello: Hello) -> Welcome:
        with self._changed:
            if self.chief is None:
                return Welcome()
            known = 0 < hello.number <= self.keeper.applied.get(worker, 0)
            self.chief.join(worker, hello.clock, None if known else hello.share)
            self._changed.notify_all()
            return Welcome(parts=self.chief.work.parts)

    def _claim(self, worker: int, line: Line) -> Given | Over:
        """The next share, as soon as there is one that the worker may begin.

        Raises:
            GroupError: the worker is gone, or has come back over another line.
        """
        assert self.chief is not None
        with self._changed:
            while self._workers.get(worker) is line:
                if self.chief.over:
                    self._set_over(self.chief.over)
                    return Over(why=self.chief.over)
                if (share := self.chief.claim(worker, time.monotonic_ns())) is not None:
                    return Given(share=share, clock=self.chief.clocks[worker])
                self._changed.wait(1.0)
                line.group.check()  # a worker that is lost while it waits wants nothing any more
        raise GroupError(f"worker {worker} has come back over another line")

    def _pull(self, line: Line, out: list[Tensor]) -> None:
        with self._changed:
            version = self.keeper.version
            for target, bucket in zip(out, self.keeper.buckets, strict=True):
                target.copy_(self.keeper.flats[bucket])
            buffers = [self.keeper.buffers.clone()]
        tensors = [*reversed(out), *(self._with_buffers(buffers[0]))]
        self.sent += sum(t.numel() * t.dtype.itemsize for t in tensors)
        line.say(Version(version=version), tensors)

    def _push(self, push: Push, views: list[Tensor], flats: list[Tensor], changes: BufferRegion) -> Version:
        self.received += sum(flats[b].numel() * flats[b].dtype.itemsize for b in self.keeper.buckets)
        with self._changed:
            wanted = self.chief is None or self.chief.work.holds(push.worker, push.share)
            if wanted and not self.keeper.knows(push):
                staleness, given = self.keeper.version - push.version, [flats[b] for b in self.keeper.buckets]
                if self.copy is not None:  # the optimizer may change gradients in place
                    given = [flat.clone() for flat in given]
                self.keeper.push(push, views, changes)
                if self.chief is not None:
                    self.chief.done(push, staleness, self.keeper.lr)
                told = Copy(push=push, chief=self.chief.capture() if self.chief else None)
                self._copy(told, [*given, *self._with_buffers(changes.region)])
                self._changed.notify_all()
                self._wake()
            return Version(version=self.keeper.version)

    def _with_buffers(self, region: Tensor) -> list[Tensor]:
        """The bytes of the buffers, on the server that has them."""
        return [region] if self.keeper.server == 0 and region.numel() else []

    # Other servers

    def link(self, server: int, asking: Line, fresh: bool) -> None:
        """Another server can be asked. `fresh`: it has taken the place of one that was lost."""
        with self._lines:
            self._peers[server] = asking, threading.Lock()
            self._behind |= fresh and server == self._next
            self._lines.notify_all()
        if fresh and server == self._next:
            with self._changed:
                self._renew_copy()

    def follow(self, line: Line) -> None:
        """Answer another server until it is gone."""
        try:
            while True:
                errand = line.hear(ERRANDS)
                match errand:
                    case Copy():
                        self._take_copy(errand, line)
                    case Adopt(size=size, chief=chief):
                        with self._copying:
                            assert self.copy is not None
                            self.copy.load(_take_tree(line, size))
                            self.chiefs_copy = chief
                        line.say(Done())
                    case AskReplica():
                        with self._copying:
                            assert self.copy is not None
                            _give_tree(line, self.copy.capture(), self.chiefs_copy)
                    case AskState():
                        with self._changed:
                            tree = unpack(pack(self.keeper.capture()))
                        _give_tree(line, tree)
                    case TellOver(why=why):
                        self._set_over(why)
                        line.say(Done())
                    case _:
                        assert_never(errand)
        except GroupError:
            pass  # who replaces it will be linked

    def ask_state(self, server: int) -> dict[str, Any]:
        """Ask another server for its shards.

        Raises:
            GroupError: it is lost.
        """
        with self._lines:
            if server not in self._peers:
                raise GroupError(f"server {server} is lost")
            line, lock = self._peers[server]
        with lock:
            return _take_tree(line, line.ask(AskState(), Tree).size)

    def own_state(self) -> tuple[dict[str, Any], Data | None]:
        """A copy of this server's shards, and what the chief knows."""
        with self._changed:
            return unpack(pack(self.keeper.capture())), self.chief.capture() if self.chief else None

    def recover(self) -> Data | None:
        """Become the lost server, from its copy on the next one. Returns what it knew as the chief, if it was that."""
        line, lock = self._peers[self._next]
        with lock:
            answer = line.ask(AskReplica(), Tree)
            self.keeper.load(_take_tree(line, answer.size))
        return answer.chief

    def tell_over(self, why: Why) -> None:
        """Tell the other servers that the work is over."""
        for line, lock in list(self._peers.values()):
            try:
                with lock:
                    line.ask(TellOver(why=why), Done)
            except GroupError:
                pass

    def committed_since(self, step: int) -> list[Committed]:
        """The steps from this one on that were committed, on the chief."""
        with self._changed:
            return self.chief.since(step) if self.chief else []

    def said(self, steps: int) -> None:
        """The ledger knows of so many steps."""
        with self._changed:
            if self.chief is not None:
                self.chief.said(steps)

    def progress(self) -> int:
        """Steps that are committed, on the chief."""
        with self._changed:
            return self.chief.work.committed if self.chief else 0

    def close(self) -> None:
        """Leave all lines."""
        for line in list(self._workers.values()):
            line.group.close(patience=1.0)
        for line, _ in list(self._peers.values()):
            line.group.close(patience=1.0)

    def pause(self) -> None:
        with self._changed:
            if self.chief is not None:
                self.chief.pause()
                if self.chief.over:
                    self._set_over(self.chief.over)
            self._changed.notify_all()

    @property
    def _next(self) -> int:
        """The server that keeps a copy of this one's shards."""
        return (self.keeper.server + 1) % self.division.servers

    def _set_over(self, why: Why) -> None:
        self.over = why
        self._wake()

    def _copy(self, told: Copy, tensors: list[Tensor]) -> None:
        """Have the next server apply the push to its copy; waits for it, or for the one that takes its place."""
        if self.copy is None:
            return
        while True:
            with self._lines:
                if not self._lines.wait_for(lambda: self._next in self._peers, 600.0):
                    raise RuntimeError(f"server {self._next} was lost, and for 600 s nobody has taken its place")
                line, lock = self._peers[self._next]
            try:
                if self._behind:
                    self._renew_copy()
                else:
                    with lock:
                        line.ask(told, Done, tensors)
                return
            except GroupError:
                with self._lines:
                    if self._peers.get(self._next, (None,))[0] is line:
                        del self._peers[self._next]

    def _renew_copy(self) -> None:
        """Hand the next server all there is, as its copy. The caller has the lock."""
        with self._lines:
            if not self._behind or self._next not in self._peers:
                return
            line, lock = self._peers[self._next]
        image, chief = pack(self.keeper.capture()), self.chief.capture() if self.chief else None
        with lock:
            line.ask(Adopt(size=image.numel(), chief=chief), Done, [image])
        self._behind = False

    def _take_copy(self, told: Copy, line: Line) -> None:
        assert self.copy is not None
        with self._copying:
            region = torch.empty(self.division.layout.size, dtype=torch.uint8)
            flats = self.division.layout.flats(region)
            changes = BufferRegion(self._buffers if self.copy.server == 0 else [])
            line.take([*(flats[b] for b in self.copy.buckets), *([changes.region] if changes.region.numel() else [])])
            if not self.copy.knows(told.push):
                self.copy.push(told.push, self.division.layout.views(region), changes)
            self.chiefs_copy = told.chief or self.chiefs_copy
        line.say(Done())


def _give_tree(line: Line, tree: Any, chief: Data | None = None) -> None:
    image = pack(tree)
    line.say(Tree(size=image.numel(), chief=chief), [image])


def _take_tree(line: Line, size: int) -> Any:
    raw = torch.empty(size, dtype=torch.uint8)
    line.take([raw])
    return unpack(raw)
