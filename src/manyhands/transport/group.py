"""A group of ranks and their collective operations.

Operations run one after another, in the order they are issued, on the group's own thread; each returns a future. An
operation is a forest (transport/planner.py), compiled into this rank's program (collective/compile.py) and carried
out by the interpreter. All ranks must issue the same operations in the same order; every channel begins each operation
with a header that says which it is, so ranks that disagree get an error that names both sides.

A group that lost a rank is broken: what runs and all that follows fails, on every rank, naming who was lost.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import struct
import threading
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

import torch
from torch import Tensor

from manyhands.cluster import Cluster
from manyhands.collective import Forest, Instruction, Op, Operation, Place, Program, compile_forest, count_chunks
from manyhands.collective.forest import forest_from_json, forest_to_json
from manyhands.transport.control import Control
from manyhands.transport.errors import GroupError, MismatchError, PeerLostError, WaitedTooLongError
from manyhands.transport.interfaces import subnet_order
from manyhands.transport.interpreter import (
    DTYPES,
    HEADER_SIZE,
    Encoded,
    MachineError,
    NativeMachine,
    Outcome,
    PortableMachine,
    encode,
    library,
)
from manyhands.transport.messages import Messages
from manyhands.transport.planner import Planner, describe, direct, names, planned, size_class, ways
from manyhands.transport.probe import probed
from manyhands.transport.rendezvous import MEMORY, Link, Store, connect
from manyhands.transport.rings import Rings

_HEADER = struct.Struct("<4sIQ48s")
_REMEMBERED = 256
"""Programs kept, and operations remembered for telling who called what."""
_SPIN = 200


class Traffic(NamedTuple):
    """Bytes to and from a peer over a rail."""

    peer: int
    rail: str
    sent: int
    received: int


class _Task(NamedTuple):
    text: str
    run: Callable[[], Any]
    future: Future[Any]


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
        self._links = {link.peer: link for link in links if link is not None}
        self.cluster = cluster
        self._planner: Planner = planned(cluster) if cluster else direct(names(self.world))
        self._shared_plans = cluster is not None and self.world > 1
        self._forests: dict[tuple[Operation, int, int], Forest] = {}
        self._programs: OrderedDict[tuple[Any, ...], tuple[Encoded, bytes]] = OrderedDict()
        self._lock = threading.Condition()
        self._tasks: deque[_Task] = deque()
        self._thread: threading.Thread | None = None
        self._broken: GroupError | None = None
        self._left: dict[int, int] = {}
        self._plans: dict[str, Any] = {}
        self._sequence = 0
        self._doing = ""
        self._history: OrderedDict[int, str] = OrderedDict()
        self._heard: dict[tuple[int, int], str] = {}
        self._told: set[tuple[int, int]] = set()
        self._here: set[tuple[int, int]] = set()
        """Peers that are in the same operation, and its number."""
        self._closed = False
        self._rings: Rings | None = None
        self._channels: dict[tuple[int, str], int] = {}
        self._peers: list[int] = []
        self._machine = self._build(portable)
        self._messages = Messages(rank, {p: link.messages for p, link in self._links.items()})
        rails = {interface: p for p, link in self._links.items() for interface in link.interfaces.values() if interface}
        streams = [(p, sock) for p, link in self._links.items() for sock in link.streams]
        controls = {p: link.control for p, link in self._links.items()}
        self._control: Control | None = None  # its thread may call before it is returned
        _groups.add(self)
        self._control = (
            Control(controls, streams, rails, self._heard_frame, self._lost, self._tick) if controls else None
        )

    @classmethod
    def connect(
        cls,
        store: Store,
        rank: int,
        world: int,
        *,
        name: str = "group",
        timeout: float = 300.0,
        cluster: Cluster | None = None,
        portable: bool = False,
    ) -> Group:
        """Find the other ranks through a store and connect to them.

        Args:
            cluster: the links; its i-th data-holding node is rank i. None: they are measured, unless all ranks are
                on one host.

        Raises:
            WaitedTooLongError: a rank did not come in time.
            GroupError: two ranks cannot reach each other.
        """
        links = connect(store, rank, world, name, timeout)
        known = {link.peer: link for link in links if link is not None}
        if cluster is None and not all(link.local for link in known.values()):
            cluster = probed(store, rank, known, name)
        return cls(rank, links, name=name, timeout=timeout, cluster=cluster, portable=portable)

    # Operations

    def all_reduce(self, tensor: Tensor, op: str = "sum") -> Future[None]:
        """Every rank gets the sum (avg, min, max, prod) of all ranks' tensors, in place."""
        return self._collective("all_reduce", [tensor], op=op)

    def reduce_scatter(self, output: Tensor, input: Tensor, op: str = "sum") -> Future[None]:
        """Rank i gets the i-th of `world` equal parts of the sum of all inputs; `input` stays as it is."""
        _check_sizes(input, output, self.world, "reduce_scatter")
        return self._collective("reduce_scatter", [input, output], op=op)

    def all_gather(self, output: Tensor, input: Tensor) -> Future[None]:
        """Every rank gets all inputs, one after another."""
        _check_sizes(output, input, self.world, "all_gather")
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
        return self._messages.send(tensor, peer, tag)

    def receive(self, tensor: Tensor, peer: int | None = None, tag: int = 0) -> Future[int]:
        """Receive a tensor from a rank, or any rank. The result is the sender's rank."""
        if peer is not None:
            self._check_peer(peer)
        return self._messages.receive(tensor, peer, tag)

    def run(
        self, text: str, program: Encoded, buffers: Sequence[Tensor], dtype: torch.dtype, digest: bytes
    ) -> Future[None]:
        """Carry out a program that sums; all ranks must run theirs. `digest` tells programs that match from others."""
        return self._issue(text, lambda: self._carry_out(text, program, buffers, dtype, "sum", digest))

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

    def check(self) -> None:
        """Raise if the group is broken.

        Raises:
            GroupError: why.
        """
        if self._broken is not None:
            raise self._broken.with_traceback(None)  # or it would grow with every call

    def encode(self, program: Program, itemsize: int) -> Encoded:
        """Prepare a program of one's own for `run`."""
        return encode(program, itemsize, self._channel)

    @property
    def description(self) -> str:
        """In one line, what was chosen and what it is predicted to reach."""
        if self.cluster is not None:
            return f"{self.world} ranks on {describe(self.cluster)}"
        how = "in C over shared memory" if isinstance(self._machine, NativeMachine) else "in Python over sockets"
        return f"{self.world} ranks on one host, {how}: each adds up its share and hands it out"

    def _channel(self, peer: int, rail: str) -> int:
        """The channel to a peer for a plan's rail or switch, which the cluster may call otherwise: then by their order,
        if there are as many; else the first."""
        rails = sorted(self._links[peer].data, key=subnet_order)
        if rail not in rails:
            members = self.cluster.ranks if self.cluster else ()
            named = ways(self.cluster, members[self.rank], members[peer]) if self.cluster else []
            rail = rails[named.index(rail)] if rail in named and len(named) == len(rails) else rails[0]
        return self._channels[peer, rail]

    def traffic(self) -> list[Traffic]:
        """Bytes moved by collectives so far, by peer and rail."""
        return [Traffic(p, rail, *self._machine.traffic(i)) for (p, rail), i in self._channels.items()]

    def close(self) -> None:
        """Finish what was issued, say goodbye, disconnect. May be called twice."""
        if self._closed:
            return
        self._closed = True
        _groups.discard(self)
        with self._lock:
            self._lock.notify_all()
        if self._thread is not None and threading.current_thread() is not self._thread:
            self._thread.join(5.0 if self._broken else self.timeout)
            if self._thread.is_alive():
                self._fail(GroupError(f"{self._context()} when the group was closed"))
                self._thread.join(5.0)
        self._say_goodbye()
        if self._control is not None:
            self._control.close()
        self._messages.close()
        if self._thread is None or not self._thread.is_alive():  # else what it still works with must stay
            self._machine.close()
            if self._rings is not None:
                self._rings.close()
        for link in self._links.values():
            link.close()

    def _say_goodbye(self) -> None:
        """Tell the others after which operation this rank left."""
        if self._control is not None:
            self._control.tell_all({"say": "bye", "sequence": self._sequence - bool(self._doing)})

    # Connecting

    def _build(self, portable: bool) -> NativeMachine | PortableMachine:
        """Exchange rings with the ranks of this host and number the channels."""
        self._rings = Rings(self.rank, self.world)
        local = {p: link.data[MEMORY] for p, link in self._links.items() if link.local}
        native = library() is not None and not portable
        ends = self._rings.share(local, native)
        channels: list[Any] = []
        for peer in sorted(self._links):
            for rail, sock in sorted(self._links[peer].data.items()):
                sock.setblocking(False)
                self._channels[peer, rail] = len(channels)
                self._peers.append(peer)
                channels.append(ends.get(peer, sock) if rail == MEMORY else sock)
        if native:
            return NativeMachine(channels, self._rings.bell, self._rings.sleeping, _SPIN)
        return PortableMachine(channels, self._rings.bell)

    def _check_peer(self, peer: int) -> None:
        if peer not in self._links:
            raise ValueError(f"rank {self.rank} cannot exchange messages with rank {peer} of {self.world}")

    # Planning

    def _forest(self, operation: Operation, size: int, root: int) -> Forest:
        key = (operation, size_class(size), root)
        if key not in self._forests:
            if not self._shared_plans:
                self._forests[key] = self._planner(operation, 1 << key[1], root)
            elif self.rank == 0:
                forest = self._forests[key] = self._planner(operation, 1 << key[1], root)
                assert self._control is not None
                self._control.tell_all({"say": "plan", "key": list(key), "forest": forest_to_json(forest)})
            else:
                self._forests[key] = forest_from_json(self._plan_of_rank_0(key))
        return self._forests[key]

    def _plan_of_rank_0(self, key: tuple[Any, ...]) -> Any:
        deadline = time.monotonic() + self.timeout
        with self._lock:
            while str(list(key)) not in self._plans:
                self.check()
                left = deadline - time.monotonic()
                if left <= 0:
                    raise WaitedTooLongError(f"rank {self.rank} waited for rank 0's plan for {self._doing}")
                self._lock.wait(min(left, 0.25))
            return self._plans[str(list(key))]

    def _program(self, operation: Operation, numel: int, itemsize: int, root: int) -> tuple[Encoded, bytes]:
        """This rank's program and what identifies the plan."""
        key = (operation, numel, itemsize, root)
        if key in self._programs:
            self._programs.move_to_end(key)
            return self._programs[key]
        forest = self._forest(operation, numel * itemsize, root)
        chunks = count_chunks(forest, numel * itemsize)
        in_place = operation in ("all_reduce", "broadcast")
        program = compile_forest(forest, self.rank, numel, chunks=chunks, in_place=in_place)
        digest = hashlib.sha256(f"{forest_to_json(forest)} {chunks}".encode()).digest()
        self._programs[key] = (self.encode(program, itemsize), digest)
        if len(self._programs) > _REMEMBERED:
            self._programs.popitem(last=False)
        return self._programs[key]

    # Running

    def _collective(
        self, operation: Operation, tensors: list[Tensor], *, op: str = "sum", root: int = 0, text: str = ""
    ) -> Future[None]:
        _check_dense(operation, tensors)
        tensor = max(tensors, key=Tensor.numel)
        dtype, numel = tensor.dtype, tensor.numel()
        if not text:
            where = f" root {root}" if operation in ("broadcast", "reduce") else ""
            reduction = f" {op}" if operation in ("all_reduce", "reduce_scatter", "reduce") else ""
            text = f"{operation}{reduction}{where} of {numel} x {str(dtype).removeprefix('torch.')}"

        def run() -> None:
            program, digest = self._program(operation, numel, tensor.element_size(), root)
            self._carry_out(text, program, tensors, dtype, "sum" if op == "avg" else op, digest)
            if op == "avg":
                _divide(tensors[-1], self.world)

        return self._issue(text, run)

    def _direct(self, text: str, sends: list[tuple[Tensor, int]], receives: list[tuple[Tensor, int]]) -> Future[None]:
        """Tensors go straight from rank to rank."""
        _check_dense(text, [t for t, _ in (*sends, *receives)])
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
            self._carry_out(text, program, buffers, torch.uint8, "sum", b"")

        return self._issue(text, run)

    def _issue(self, text: str, run: Callable[[], Any]) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()  # what others take part in cannot be cancelled
        with self._lock:
            if self._closed:
                raise GroupError(f"{self.name} is closed: {text} was called after it was destroyed")
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, daemon=True, name="manyhands-group")
                self._thread.start()
            self._tasks.append(_Task(text, run, future))
            self._lock.notify_all()
        return future

    def _work(self) -> None:
        while True:
            with self._lock:
                while not self._tasks:
                    if self._closed:
                        return
                    self._lock.wait()
                task = self._tasks.popleft()
            try:
                self._begin(task.text)
                result = task.run()
            except BaseException as error:
                if not isinstance(error, GroupError):
                    self._fail(GroupError(f"rank {self.rank} failed in {task.text}: {error}"))
                self._end()
                task.future.set_exception(error)
            else:
                self._end()
                task.future.set_result(result)
            del task

    def _begin(self, text: str) -> None:
        self.check()
        with self._lock:  # so that the control thread compares what it hears either before or after
            self._sequence += 1
            self._doing = text
            self._history[self._sequence] = text
            if len(self._history) > _REMEMBERED:
                self._history.popitem(last=False)
            self._told.clear()
            self._here.clear()
            heard = [(peer, sequence) for peer, sequence in self._heard if sequence <= self._sequence]
            calls = [(*key, self._heard.pop(key)) for key in heard]
        for peer, sequence, theirs in calls:
            self._compare(peer, sequence, theirs)
            self.check()
        if self._control is not None:
            self._control.busy(True)

    def _end(self) -> None:
        self._doing = ""
        if self._control is not None:
            self._control.busy(False)

    def _carry_out(
        self, text: str, program: Encoded, buffers: Sequence[Tensor], dtype: torch.dtype, op: str, digest: bytes
    ) -> None:
        for channel in program.channels:
            peer = self._peers[channel]
            if self._left.get(peer, self._sequence) < self._sequence:
                raise self._fail(PeerLostError(peer, self._context(), "had left the group"))
        identity = hashlib.sha256(f"{text} {dtype} {op}".encode() + digest).digest()
        header = _HEADER.pack(b"MHOP", self.rank, self._sequence, identity)
        assert len(header) == HEADER_SIZE
        try:
            self._machine.run(program, buffers, dtype, op, header, time.monotonic() + self.timeout)
        except MachineError as error:
            raise self._explained(error, text) from None

    def _context(self) -> str:
        if not self._doing:
            return f"rank {self.rank} was idle after operation {self._sequence}"
        return f"rank {self.rank} was in operation {self._sequence}, {self._doing}"

    def _explained(self, error: MachineError, text: str) -> GroupError:
        """Say what went wrong, to everyone."""
        if self._broken is not None:
            return self._broken
        peer = self._peers[error.channel] if error.channel >= 0 else -1
        match error.outcome:
            case Outcome.LOST:
                self._learn_why(0.5)
                return self._fail(PeerLostError(peer, self._context()))
            case Outcome.MISMATCH:
                return self._mismatch(peer, error.header)
            case Outcome.TIMED_OUT:
                if (peer, self._sequence) in self._here:
                    self._learn_why(1.0)  # it is not the one that never came; it knows who is
                where = f"in operation {self._sequence}, {text}"
                waited = f"rank {self.rank} waited {self.timeout:.0f} s for rank {peer} {where}"
                return self._fail(WaitedTooLongError(waited))
        return self._fail(GroupError(f"{self._context()}: {error}"))

    def _mismatch(self, peer: int, header: bytes) -> GroupError:
        """Ask the peer what it is at, and name both."""
        magic, _, sequence, _ = _HEADER.unpack(header)
        if magic != b"MHOP":
            return self._fail(GroupError(f"{self._context()}: what came from rank {peer} is no operation"))
        assert self._control is not None
        first = min(sequence, self._sequence)  # the peer was there
        self._control.say(peer, {"say": "what", "sequence": first, "text": self._history.get(first, self._doing)})
        self._learn_why(1.0)
        return self._fail(MismatchError(f"{self._context()}; rank {peer} was in its operation {sequence}, another one"))

    def _learn_why(self, seconds: float) -> None:
        """Others may know better than the channel that broke: a rank that fails tells all before it goes."""
        with self._lock:
            self._lock.wait_for(lambda: self._broken is not None, seconds)

    # What others say, on the control thread

    def _heard_frame(self, peer: int, frame: dict[str, Any]) -> None:
        match frame.get("say"):
            case "failed":
                error = (
                    PeerLostError(frame["rank"], self._context(), frame["reason"])
                    if frame.get("rank") is not None
                    else None
                )
                self._fail(error or _KINDS.get(frame["kind"], GroupError)(frame["text"]), tell=False)
            case "waiting" | "what":
                self._compare(peer, frame["sequence"], frame["text"], surely=frame["say"] == "what")
            case "here":
                self._here.add((peer, frame["sequence"]))
            case "plan":
                with self._lock:
                    self._plans[str(frame["key"])] = frame["forest"]
                    self._lock.notify_all()
            case "bye":
                self._left[peer] = frame["sequence"]
                if self._doing and self._sequence > frame["sequence"]:
                    self._fail(PeerLostError(peer, self._context(), "has left the group"))

    def _compare(self, peer: int, sequence: int, text: str, surely: bool = False) -> None:
        """A peer is in this operation: is it what this rank did, or does, as its operation of that number?"""
        with self._lock:
            if sequence > self._sequence:
                self._heard[peer, sequence] = text
                return
            own = self._history.get(sequence, text)
            here = self._doing and sequence == self._sequence
        if own != text:
            self._fail(
                MismatchError(
                    f"ranks called different operations: as number {sequence}, rank {peer} called {text}, and rank "
                    f"{self.rank} called {own}. All ranks of a group must call the same operations in the same order."
                )
            )
        elif surely:
            self._fail(
                MismatchError(
                    f"as number {sequence}, rank {peer} and rank {self.rank} both called {text}, but what one sends is "
                    "not what the other is to receive. Give matching sizes on both ranks, and the same cluster."
                )
            )
        elif here and self._control is not None:
            self._control.say(peer, {"say": "here", "sequence": sequence})

    def _lost(self, peer: int, why: str) -> None:
        if peer not in self._left:
            self._fail(PeerLostError(peer, self._context(), why))

    def _tick(self) -> None:
        """An operation takes long: tell whom we wait for what we are at."""
        waited = [peer for channel, peer in enumerate(self._peers) if self._machine.waits_for(channel)]
        peers = waited or ([0] if self.rank and self._shared_plans else [])
        for peer in peers:
            if (peer, self._sequence) not in self._told and self._control is not None:
                self._told.add((peer, self._sequence))
                self._control.say(peer, {"say": "waiting", "sequence": self._sequence, "text": self._doing})

    def _fail(self, error: GroupError, tell: bool = True) -> GroupError:
        """The group is broken, for the first reason given."""
        with self._lock:
            if self._broken is not None:
                return self._broken
            self._broken = error
            self._lock.notify_all()
        self._machine.abort()
        if tell and self._control is not None:
            lost = isinstance(error, PeerLostError)
            message = {"say": "failed", "kind": type(error).__name__, "text": str(error)}
            self._control.tell_all(message | ({"rank": error.rank, "reason": error.reason} if lost else {}))
        self._messages.fail(error)
        return error


_groups: weakref.WeakSet[Group] = weakref.WeakSet()
"""That are open."""


def _leave() -> None:
    """A process that ends without closing its groups did not crash: say so."""
    for group in list(_groups):
        group._say_goodbye()


atexit.register(_leave)
os.register_at_fork(after_in_child=_groups.clear)

_KINDS: dict[str, type[GroupError]] = {"MismatchError": MismatchError, "WaitedTooLongError": WaitedTooLongError}


def _check_dense(operation: str, tensors: Sequence[Tensor]) -> None:
    for tensor in tensors:
        if tensor.dtype not in DTYPES or tensor.device.type != "cpu" or not tensor.is_contiguous():
            raise ValueError(
                f"{operation} needs contiguous tensors on the CPU of a number's dtype; got one of {tensor.dtype} on "
                f"{tensor.device} with strides {tensor.stride()}. Pass a contiguous copy, or view it as another dtype."
            )


def _check_sizes(whole: Tensor, part: Tensor, world: int, operation: str) -> None:
    if whole.numel() != world * part.numel() or whole.dtype != part.dtype:
        raise ValueError(
            f"{operation} over {world} ranks needs a tensor of {world} times the part's elements, of one dtype; got "
            f"{whole.numel()} x {whole.dtype} and {part.numel()} x {part.dtype}"
        )


def _divide(tensor: Tensor, world: int) -> None:
    if tensor.dtype.is_floating_point:
        tensor.div_(world)
    else:
        tensor.copy_(torch.div(tensor, world, rounding_mode="trunc"))
