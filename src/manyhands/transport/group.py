"""A group of ranks and their collective operations.

Operations run one after another, in the order they are issued, on the group's own thread; each returns a future. An
operation is a forest (planner.py), compiled into this rank's program (schedules.py) and carried out by the interpreter
(channels.py). All ranks must issue the same operations in the same order; every channel begins each operation with a
header that says which it is, so ranks that disagree get an error that names both sides (agreement.py).

A group that lost a rank is broken: what runs and all that follows fails, on every rank, naming who was lost.
"""

from __future__ import annotations

import atexit
import os
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import torch
from torch import Tensor

from manyhands.cluster import Cluster
from manyhands.collective import Instruction, Op, Operation, Place, Program, Wire
from manyhands.transport.agreement import Agreement
from manyhands.transport.arguments import check_dense, check_lossy, check_sizes, divide, then
from manyhands.transport.channels import Channels, Traffic
from manyhands.transport.control import Control
from manyhands.transport.errors import GroupError
from manyhands.transport.interpreter import Encoded
from manyhands.transport.link import Link
from manyhands.transport.messages import Messages
from manyhands.transport.planner import describe
from manyhands.transport.probe import probed
from manyhands.transport.rendezvous import Store, connect
from manyhands.transport.schedules import Schedules
from manyhands.transport.staging import Staging
from manyhands.transport.tasks import ClosedError, Tasks

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
        self.rank, self.world, self.name, self.timeout = rank, len(links), name, timeout
        self.cluster, self.portable = cluster, portable
        self._links = {link.peer: link for link in links if link is not None}
        self._tasks = Tasks()
        self._closed = False
        self._stagings: dict[torch.device, Staging] = {}
        self._control: Control | None = None  # its thread may call before it is returned
        self._channels = Channels(rank, self._links, cluster, portable)
        self._agreement = Agreement(rank, self._say, self._on_broken)
        self._messages = Messages(rank, {p: link.messages for p, link in self._links.items()}, self._agreement.why_lost)
        self._schedules = Schedules(rank, self.world, cluster, self._agreement, self._say, self.encode)
        _groups.add(self)
        self._control = self._listen()

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
            return self._collective("all_reduce", [tensor], op=op)
        lost = torch.zeros_like(tensor) if lost is None else lost
        check_lossy(tensor, lost, op)
        return self._collective("all_reduce", [tensor, lost], op=op, wire=wire)

    def reduce_scatter(self, output: Tensor, input: Tensor, op: str = "sum") -> Future[None]:
        """Rank i gets the i-th of `world` equal parts of the sum of all inputs; `input` stays as it is."""
        check_sizes(input, output, self.world, "reduce_scatter")
        return self._collective("reduce_scatter", [input, output], op=op)

    def all_gather(self, output: Tensor, input: Tensor) -> Future[None]:
        """Every rank gets all inputs, one after another."""
        check_sizes(output, input, self.world, "all_gather")
        return self._collective("all_gather", [input, output])

    def broadcast(self, tensor: Tensor, root: int) -> Future[None]:
        """Every rank gets the root's tensor."""
        return self._collective("broadcast", [tensor], root=root)

    def reduce(self, tensor: Tensor, root: int, op: str = "sum") -> Future[None]:
        """The root's tensor becomes the sum of all; the others' stay as they are."""
        target = tensor if self.rank == root else torch.empty_like(tensor)
        return self._collective("reduce", [tensor, target], root=root, op=op)

    def all_to_all(self, outputs: Sequence[Tensor], inputs: Sequence[Tensor]) -> Future[None]:
        """Rank i's `outputs[j]` becomes rank j's `inputs[i]`. Sizes may differ, and may be zero."""
        order = [(self.rank + i) % self.world for i in range(self.world)]
        return self._direct("all_to_all", [(inputs[p], p) for p in order], [(outputs[p], p) for p in reversed(order)])

    def gather(self, outputs: Sequence[Tensor] | None, input: Tensor, root: int) -> Future[None]:
        """The root gets all ranks' inputs."""
        receives = list(zip(outputs or [], range(self.world), strict=False)) if self.rank == root else []
        return self._direct(f"gather to rank {root}", [(input, root)], receives)

    def scatter(self, output: Tensor, inputs: Sequence[Tensor] | None, root: int) -> Future[None]:
        """Rank i gets the root's `inputs[i]`."""
        sends = list(zip(inputs or [], range(self.world), strict=False)) if self.rank == root else []
        return self._direct(f"scatter from rank {root}", sends, [(output, root)])

    def barrier(self) -> Future[None]:
        """Done when every rank has come here."""
        return self._collective("all_reduce", [torch.zeros(1, dtype=torch.uint8)], text="barrier")

    def send(self, tensor: Tensor, peer: int, tag: int = 0) -> Future[None]:
        """Send a tensor to a rank that receives it; does not wait for other operations."""
        self._check_peer(peer)
        check_dense("send", [tensor])
        return self._messages.send(tensor.cpu() if self._on_device(tensor) else tensor, peer, tag)

    def receive(self, tensor: Tensor, peer: int | None = None, tag: int = 0) -> Future[int]:
        """Receive a tensor from a rank, or any rank. The result is the sender's rank."""
        if peer is not None:
            self._check_peer(peer)
        check_dense("receive", [tensor])
        if not self._on_device(tensor):
            return self._messages.receive(tensor, peer, tag)
        host = torch.empty(tensor.shape, dtype=tensor.dtype)
        return then(self._messages.receive(host, peer, tag), lambda: tensor.copy_(host))

    def run(
        self, text: str, program: Encoded, buffers: Sequence[Tensor], dtype: torch.dtype, digest: bytes
    ) -> Future[None]:
        """Carry out a program that sums; all ranks must run theirs. `digest` tells programs that match from others."""
        return self._issue(text, lambda: self._carry_out(program, buffers, dtype, "sum", digest))

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
        """In one line, what was chosen and what it is predicted to reach."""
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
        _groups.discard(self)
        seconds = self.timeout if patience is None else patience
        over = self._tasks.close(_BROKEN_SECONDS if self._agreement.broken else seconds)
        if not over:
            self._agreement.fail(GroupError(f"{self._agreement.context()} when the group was closed"))
            over = self._tasks.close(_BROKEN_SECONDS)
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

    def _listen(self) -> Control | None:
        controls = {p: link.control for p, link in self._links.items()}
        rails = {interface: p for p, link in self._links.items() for interface in link.interfaces.values() if interface}
        streams = [(p, sock) for p, link in self._links.items() for sock in link.streams]
        if not controls:
            return None
        return Control(controls, streams, rails, self._hear, self._agreement.lost, self._tick)

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

    # Running

    def _collective(
        self,
        operation: Operation,
        tensors: list[Tensor],
        *,
        op: str = "sum",
        root: int = 0,
        text: str = "",
        wire: Wire = "full",
    ) -> Future[None]:
        """Issue an operation on one tensor, in place, or on an input and an output."""
        check_dense(operation, tensors)
        tensor = max(tensors, key=Tensor.numel)
        dtype = tensor.dtype
        if not text:
            where = f" root {root}" if operation in ("broadcast", "reduce") else ""
            reduction = f" {op}" if operation in ("all_reduce", "reduce_scatter", "reduce") else ""
            text = f"{operation}{reduction}{where} of {tensor.numel()} x {str(dtype).removeprefix('torch.')}"
            text += f" as {wire}" if wire != "full" else ""

        def carry_out(tensors: Sequence[Tensor]) -> None:
            numel = max(map(Tensor.numel, tensors))
            scheduled = self._schedules.program(operation, numel, dtype.itemsize, root, self.timeout, wire)
            self._carry_out(scheduled.program, tensors, dtype, "sum" if op == "avg" else op, scheduled.digest)
            if op == "avg":
                divide(tensors[0 if operation == "all_reduce" else -1], self.world)

        if self._on_device(tensor) and wire != "full":
            raise ValueError(f"wire={wire} is for tensors on the CPU; this one is on {tensor.device}")
        if self._on_device(tensor):
            return self._staged(text, tensors, carry_out, in_pieces=operation not in ("reduce_scatter", "all_gather"))
        return self._issue(text, lambda: carry_out(tensors))

    def _on_device(self, tensor: Tensor) -> bool:
        return tensor.device.type != "cpu"

    def _staged(
        self, text: str, tensors: list[Tensor], carry_out: Callable[[Sequence[Tensor]], None], in_pieces: bool
    ) -> Future[None]:
        """The same for tensors on a device. What every element is part of alone can go in pieces."""
        source, target = tensors[0], tensors[-1]
        staging = self._stagings.setdefault(source.device, Staging(source.device))
        ready = staging.ready()

        def run() -> None:
            ready()
            if in_pieces:
                for host in staging.in_pieces(source, target):
                    buffers = [host] if len(tensors) == 1 else [host, host.clone()]
                    carry_out(buffers)
                    host.copy_(buffers[-1])
                return
            hosts = [staging.fetch(source), torch.empty(target.shape, dtype=target.dtype)]
            carry_out(hosts)
            staging.put(target, hosts[-1])

        return self._issue(text, run)

    def _direct(self, text: str, sends: list[tuple[Tensor, int]], receives: list[tuple[Tensor, int]]) -> Future[None]:
        """Tensors go straight from rank to rank."""
        check_dense(text, [t for t, _ in (*sends, *receives)])
        sends = [(t.cpu() if self._on_device(t) else t, p) for t, p in sends]
        homes = [t for t, _ in receives]
        receives = [(torch.empty(t.shape, dtype=t.dtype) if self._on_device(t) else t, p) for t, p in receives]
        own_sent = [t for t, p in sends if p == self.rank]
        own_received = [t for t, p in receives if p == self.rank]
        outgoing = [(t, p) for t, p in sends if p != self.rank]
        incoming = [(t, p) for t, p in receives if p != self.rank]
        buffers = [t.reshape(-1).view(torch.uint8) for t, _ in (*outgoing, *incoming)]
        steps = [
            Instruction(Op.SEND, buffers[i].numel(), left=Place(i, 0), peer=p) for i, (_, p) in enumerate(outgoing)
        ]
        steps += [
            Instruction(Op.RECEIVE, buffers[i].numel(), target=Place(i, 0), peer=p)
            for i, (_, p) in enumerate(incoming, len(outgoing))
        ]
        sizes = (*(b.numel() for b in buffers), 0)
        program = self.encode(Program(self.rank, sizes, len(buffers), 0, tuple(steps)), 1)

        def run() -> None:
            for source, target in zip(own_sent, own_received, strict=True):
                target.copy_(source)
            self._carry_out(program, buffers, torch.uint8, "sum", b"")
            for home, (received, _) in zip(homes, receives, strict=True):
                if home is not received:
                    home.copy_(received)

        return self._issue(text, run)

    def _carry_out(
        self, program: Encoded, buffers: Sequence[Tensor], dtype: torch.dtype, reduction: str, digest: bytes
    ) -> None:
        self._channels.run(program, buffers, dtype, reduction, digest, self._agreement, self.timeout)

    def _issue(self, text: str, run: Callable[[], Any]) -> Future[Any]:
        def operation() -> Any:
            try:
                self._agreement.begin(text)
                self._busy(True)
                return run()
            except GroupError:
                raise
            except BaseException as error:
                self._agreement.fail(GroupError(f"rank {self.rank} failed in {text}: {error}"))
                raise
            finally:
                self._agreement.end()
                self._busy(False)

        try:
            return self._tasks.put(operation)
        except ClosedError:
            raise GroupError(f"{self.name} is closed: {text} was called after it was destroyed") from None

    def _busy(self, value: bool) -> None:
        if self._control is not None:
            self._control.busy(value)

    def _check_peer(self, peer: int) -> None:
        if peer not in self._links:
            raise ValueError(f"rank {self.rank} cannot exchange messages with rank {peer} of {self.world}")


_groups: weakref.WeakSet[Group] = weakref.WeakSet()
"""That are open."""


def sent_bytes() -> int:
    """Bytes that this process has sent so far over the groups that are open."""
    return sum(group.sent for group in list(_groups))


def _leave() -> None:
    """A process that ends without closing its groups did not crash: say so. And have no thread of theirs run while the
    interpreter goes: one that is stopped within torch ends the process with an abort."""
    for group in list(_groups):
        group.close(patience=1.0)


atexit.register(_leave)
os.register_at_fork(after_in_child=_groups.clear)
