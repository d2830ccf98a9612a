"""A group of ranks and their collective operations.

Operations run one after another, in the order they are issued, on the group's own thread (operations.py); each returns
a future. All ranks must issue the same operations in the same order; every channel begins each operation with a
header that says which it is, so ranks that disagree get an error that names both sides (agreement.py).

A group that lost a rank is broken: what runs and all that follows fails, on every rank, naming who was lost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import torch
from torch import Tensor

import manyhands.transport.staging as staging
from manyhands.cluster import Cluster
from manyhands.collective import Program, Wire
from manyhands.transport.agreement import Agreement
from manyhands.transport.arguments import check_dense, check_lossy, check_sizes, then
from manyhands.transport.channels import Channels, Traffic
from manyhands.transport.control import Control
from manyhands.transport.errors import GroupError
from manyhands.transport.interpreter import Encoded
from manyhands.transport.leaving import open_groups
from manyhands.transport.link import Link
from manyhands.transport.messages import Messages
from manyhands.transport.operations import Operations
from manyhands.transport.planner import describe
from manyhands.transport.probe import probed
from manyhands.transport.rendezvous import Store, connect
from manyhands.transport.schedules import Schedules

_BROKEN_SECONDS = 5.0
"""How long operations of a broken group may take to end."""


class Group:
    """This rank's place in a group.

    Args:
        rank: this one's.
        links: to all ranks; None at this one's place.
        name: of the group, for messages.
        timeout: seconds that an operation may wait for a peer that lives.
        cluster: the links, by which forests are chosen; None: all reach each other equally well.
        portable: interpret programs in Python even where there is a compiler.
    """

    def __init__(
        self,
        rank: int,
        links: Sequence[Link | None],
        *,
        name: str = "group",
        timeout: float = 300.0,
        cluster: Cluster | None = None,
        portable: bool = False,
    ) -> None:
        self.rank, self.world, self.name = rank, len(links), name
        self.cluster, self.portable = cluster, portable
        self._links = {link.peer: link for link in links if link is not None}
        self._closed = False
        self._control: Control | None = None  # its thread may call before it is returned
        self._channels = Channels(rank, self._links, cluster, portable)
        self._agreement = Agreement(rank, self._say, self._on_broken)
        self._messages = Messages(rank, {p: link.messages for p, link in self._links.items()}, self._agreement.why_lost)
        self._schedules = Schedules(rank, self.world, cluster, self._agreement, self._say, self.encode)
        self._operations = Operations(
            rank, self.world, name, timeout, self._channels, self._agreement, self._schedules, self._busy
        )
        open_groups.add(self)
        self._control = Control.over(self._links, self._hear, self._agreement.lost, self._tick)

    @classmethod
    def connect(
        cls,
        store: Store,
        rank: int,
        world: int,
        *,
        name: str = "group",
        timeout: float = 300.0,
        patience: float | None = None,
        cluster: Cluster | None = None,
        portable: bool = False,
    ) -> Group:
        """Find the other ranks through a store and connect to them.

        Args:
            patience: seconds to wait for the others to connect. Default: the timeout.
            cluster: the links; its i-th data-holding node is rank i. None: they are measured, unless all ranks are
                on one host.

        Raises:
            WaitedTooLongError: a rank did not come in time.
            GroupError: two ranks cannot reach each other.
        """
        links = connect(store, rank, world, name, timeout if patience is None else patience)
        known = {link.peer: link for link in links if link is not None}
        if cluster is None and not all(link.local for link in known.values()):
            cluster = probed(store, rank, known, name)
        return cls(rank, links, name=name, timeout=timeout, cluster=cluster, portable=portable)

    # Operations

    def all_reduce(
        self, tensor: Tensor, op: str = "sum", *, wire: Wire = "full", lost: Tensor | None = None
    ) -> Future[None]:
        """Every rank gets the sum (avg, min, max, prod) of all ranks' tensors, in place.

        Args:
            wire: sums (and averages) of fp32 may travel as `bf16` or `int8` (collective/lossy.py). All ranks have the
                same bits all the same.
            lost: of the tensor's shape, zeros at first, kept by the caller from one sum to the next: what the wire
                format lost of this rank's part, to be made up for next time.
        """
        if wire == "full":
            return self._operations.collective("all_reduce", [tensor], op=op)
        lost = torch.zeros_like(tensor) if lost is None else lost
        check_lossy(tensor, lost, op)
        return self._operations.collective("all_reduce", [tensor, lost], op=op, wire=wire)

    def reduce_scatter(self, output: Tensor, input: Tensor, op: str = "sum") -> Future[None]:
        """Rank i gets the i-th of `world` equal parts of the sum of all inputs; `input` stays as it is."""
        check_sizes(input, output, self.world, "reduce_scatter")
        return self._operations.collective("reduce_scatter", [input, output], op=op)

    def all_gather(self, output: Tensor, input: Tensor) -> Future[None]:
        """Every rank gets all inputs, one after another."""
        check_sizes(output, input, self.world, "all_gather")
        return self._operations.collective("all_gather", [input, output])

    def broadcast(self, tensor: Tensor, root: int) -> Future[None]:
        """Every rank gets the root's tensor."""
        return self._operations.collective("broadcast", [tensor], root=root)

    def reduce(self, tensor: Tensor, root: int, op: str = "sum") -> Future[None]:
        """The root's tensor becomes the sum of all; the others' stay as they are."""
        target = tensor if self.rank == root else torch.empty_like(tensor)
        return self._operations.collective("reduce", [tensor, target], root=root, op=op)

    def all_to_all(self, outputs: Sequence[Tensor], inputs: Sequence[Tensor]) -> Future[None]:
        """Rank i's `outputs[j]` becomes rank j's `inputs[i]`. Sizes may differ, and may be zero."""
        order = [(self.rank + i) % self.world for i in range(self.world)]
        return self._operations.direct(
            "all_to_all", [(inputs[p], p) for p in order], [(outputs[p], p) for p in reversed(order)]
        )

    def gather(self, outputs: Sequence[Tensor] | None, input: Tensor, root: int) -> Future[None]:
        """The root gets all ranks' inputs."""
        receives = list(zip(outputs or [], range(self.world), strict=False)) if self.rank == root else []
        return self._operations.direct(f"gather to rank {root}", [(input, root)], receives)

    def scatter(self, output: Tensor, inputs: Sequence[Tensor] | None, root: int) -> Future[None]:
        """Rank i gets the root's `inputs[i]`."""
        sends = list(zip(inputs or [], range(self.world), strict=False)) if self.rank == root else []
        return self._operations.direct(f"scatter from rank {root}", sends, [(output, root)])

    def barrier(self) -> Future[None]:
        """A future that is done when every rank has come here."""
        return self._operations.collective("all_reduce", [torch.zeros(1, dtype=torch.uint8)], text="barrier")

    def send(self, tensor: Tensor, peer: int, tag: int = 0) -> Future[None]:
        """Send a tensor to a rank that receives it; does not wait for other operations."""
        self._check_peer(peer)
        check_dense("send", [tensor])
        return self._messages.send(tensor.cpu() if staging.on_device(tensor) else tensor, peer, tag)

    def receive(self, tensor: Tensor, peer: int | None = None, tag: int = 0) -> Future[int]:
        """Receive a tensor from a rank, or any rank. The result is the sender's rank."""
        if peer is not None:
            self._check_peer(peer)
        check_dense("receive", [tensor])
        if not staging.on_device(tensor):
            return self._messages.receive(tensor, peer, tag)
        host = torch.empty(tensor.shape, dtype=tensor.dtype)
        return then(self._messages.receive(host, peer, tag), lambda: tensor.copy_(host))

    def run(
        self, text: str, program: Encoded, buffers: Sequence[Tensor], dtype: torch.dtype, digest: bytes
    ) -> Future[None]:
        """Carry out a program that sums; all ranks must run theirs. `digest` tells programs that match from others."""
        return self._operations.program(text, program, buffers, dtype, digest)

    def all_gather_bytes(self, data: bytes, wait: Callable[[Future[None]], None] = Future.result) -> list[bytes]:
        """Every rank's few bytes, in rank order. Waits, with `wait`."""
        sizes = torch.empty(self.world, dtype=torch.int64)
        wait(self.all_gather(sizes, torch.tensor([len(data)])))
        largest = int(sizes.max())
        padded = torch.zeros(largest, dtype=torch.uint8)
        if data:
            padded[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        rows = torch.empty(self.world * largest, dtype=torch.uint8)
        wait(self.all_gather(rows, padded))
        raw = rows.numpy().tobytes()
        return [raw[i * largest : i * largest + int(size)] for i, size in enumerate(sizes)]

    # State

    @property
    def timeout(self) -> float:
        """Seconds that an operation may wait for a peer that lives."""
        return self._operations.timeout

    @timeout.setter
    def timeout(self, seconds: float) -> None:
        self._operations.timeout = seconds

    def is_local(self, peer: int) -> bool:
        """Whether a rank is on this host."""
        return peer == self.rank or self._links[peer].local

    def rails(self, peer: int) -> set[str]:
        """Names of the ways on which data goes to a rank."""
        return set(self._links[peer].data)

    def check(self) -> None:
        """Raise if the group is broken.

        Raises:
            GroupError: why.
        """
        self._agreement.check()

    def encode(self, program: Program, itemsize: int) -> Encoded:
        """Prepare a program of one's own for `run`."""
        return self._channels.encode(program, itemsize)

    @property
    def description(self) -> str:
        """What was chosen and what it is predicted to reach, in one line."""
        if self.cluster is not None:
            return f"{self.world} ranks on {describe(self.cluster)}"
        how = "in C over shared memory" if self._channels.native else "in Python over sockets"
        return f"{self.world} ranks on one host, {how}: each adds up its share and hands it out"

    def traffic(self) -> list[Traffic]:
        """Bytes moved by collectives so far, by peer and rail."""
        return self._channels.traffic()

    @property
    def sent(self) -> int:
        """Bytes that this rank has sent so far: in collectives, and single tensors."""
        return sum(way.sent for way in self.traffic()) + self._messages.sent

    def close(self, patience: float | None = None) -> None:
        """Finish what was issued, say goodbye, disconnect. May be called twice.

        Args:
            patience: seconds to wait for what was issued. Default: the group's timeout.
        """
        if self._closed:
            return
        self._closed = True
        open_groups.discard(self)
        seconds = self.timeout if patience is None else patience
        over = self._operations.close(_BROKEN_SECONDS if self._agreement.broken else seconds)
        if not over:
            self._agreement.fail(GroupError(f"{self._agreement.context()} when the group was closed"))
            over = self._operations.close(_BROKEN_SECONDS)
        self.say_goodbye()
        if self._control is not None:
            self._control.close()
        self._messages.close()
        if over:  # else what it still works with must stay
            self._channels.close()
        for link in self._links.values():
            link.close()

    def abandon(self) -> None:
        """Disconnect without a word, if that has not been done yet: the others take it for a loss."""
        for link in self._links.values():
            link.control.close()

    def say_goodbye(self) -> None:
        """Tell the others that this rank leaves, so that they do not take it for a crash."""
        self._agreement.leave()

    # What others say, and what to tell them

    def _say(self, peer: int | None, message: dict[str, Any]) -> None:
        if self._control is None:
            return
        if peer is None:
            self._control.tell_all(message)
        else:
            self._control.say(peer, message)

    def _hear(self, peer: int, frame: dict[str, Any]) -> None:
        if frame.get("say") == "plan":
            self._schedules.hear(frame)
        else:
            self._agreement.hear(peer, frame)

    def _tick(self) -> None:
        self._agreement.take_long(list(self._links))

    def _on_broken(self, error: GroupError) -> None:
        self._channels.abort()
        self._messages.fail(error)

    def _busy(self, value: bool) -> None:
        if self._control is not None:
            self._control.busy(value)

    def _check_peer(self, peer: int) -> None:
        if peer not in self._links:
            raise ValueError(f"rank {self.rank} cannot exchange messages with rank {peer} of {self.world}")
