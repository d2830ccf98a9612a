"""How a group's operations are carried out: one after another, in the order they were issued, on a thread of its own.

A collective is a forest (planner.py), compiled into this rank's program (schedules.py); tensors that go straight from
rank to rank are a program of sends and receives. The interpreter runs both (channels.py). Tensors on a device are
staged on their way (staging.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import torch
from torch import Tensor

import manyhands.transport.staging as staging
from manyhands.collective import Instruction, Op, Operation, Place, Program, Wire
from manyhands.transport.agreement import Agreement
from manyhands.transport.arguments import check_dense, divide
from manyhands.transport.channels import Channels
from manyhands.transport.errors import GroupError
from manyhands.transport.interpreter import Encoded
from manyhands.transport.schedules import Schedules
from manyhands.transport.tasks import ClosedError, Tasks

_REDUCING = ("all_reduce", "reduce_scatter", "reduce")
_ROOTED = ("broadcast", "reduce")
_WHOLE = ("reduce_scatter", "all_gather")
"""Operations that cannot go in pieces: what an element becomes depends on where it is."""

Peer = tuple[Tensor, int]
"""A tensor, and the rank that it goes to or comes from."""


class Operations:
    """The operations of one rank of a group.

    Args:
        name: of the group, for messages.
        timeout: seconds that an operation may wait for a peer that lives.
        busy: told when an operation begins (True) and ends.
    """

    def __init__(
        self,
        rank: int,
        world: int,
        name: str,
        timeout: float,
        channels: Channels,
        agreement: Agreement,
        schedules: Schedules,
        busy: Callable[[bool], None],
    ) -> None:
        self.rank, self.world, self.name, self.timeout = rank, world, name, timeout
        self._channels, self._agreement, self._schedules, self._busy = channels, agreement, schedules, busy
        self._tasks = Tasks()
        self._stagings: dict[torch.device, staging.Staging] = {}

    def collective(
        self,
        operation: Operation,
        tensors: list[Tensor],
        *,
        op: str = "sum",
        root: int = 0,
        text: str = "",
        wire: Wire = "full",
    ) -> Future[None]:
        """Issue an operation on one tensor, in place, or on an input and an output. `text` names it in errors."""
        check_dense(operation, tensors)
        tensor = max(tensors, key=Tensor.numel)
        dtype = tensor.dtype
        text = text or _title(operation, tensor, op, root, wire)

        def carry_out(tensors: Sequence[Tensor]) -> None:
            numel = max(map(Tensor.numel, tensors))
            scheduled = self._schedules.program(operation, numel, dtype.itemsize, root, self.timeout, wire)
            self._carry_out(scheduled.program, tensors, dtype, "sum" if op == "avg" else op, scheduled.digest)
            if op == "avg":
                divide(tensors[0 if operation == "all_reduce" else -1], self.world)

        if staging.on_device(tensor) and wire != "full":
            raise ValueError(f"wire={wire} is for tensors on the CPU; this one is on {tensor.device}")
        if staging.on_device(tensor):
            return self._staged(text, tensors, carry_out, in_pieces=operation not in _WHOLE)
        return self._issue(text, lambda: carry_out(tensors))

    def direct(self, text: str, sends: list[Peer], receives: list[Peer]) -> Future[None]:
        """Send and receive tensors straight from rank to rank."""
        check_dense(text, [t for t, _ in (*sends, *receives)])
        sends = [(t.cpu() if staging.on_device(t) else t, p) for t, p in sends]
        homes = [t for t, _ in receives]
        receives = [(torch.empty(t.shape, dtype=t.dtype) if staging.on_device(t) else t, p) for t, p in receives]
        own_sent = [t for t, p in sends if p == self.rank]
        own_received = [t for t, p in receives if p == self.rank]
        outgoing = [(t, p) for t, p in sends if p != self.rank]
        incoming = [(t, p) for t, p in receives if p != self.rank]
        buffers = [t.reshape(-1).view(torch.uint8) for t, _ in (*outgoing, *incoming)]
        targets, sources = [p for _, p in outgoing], [p for _, p in incoming]
        program = self._channels.encode(_exchange(self.rank, buffers, targets, sources), 1)

        def run() -> None:
            for source, target in zip(own_sent, own_received, strict=True):
                target.copy_(source)
            self._carry_out(program, buffers, torch.uint8, "sum", b"")
            for home, (received, _) in zip(homes, receives, strict=True):
                if home is not received:
                    home.copy_(received)

        return self._issue(text, run)

    def program(
        self, text: str, program: Encoded, buffers: Sequence[Tensor], dtype: torch.dtype, digest: bytes
    ) -> Future[None]:
        """Carry out a program that sums."""
        return self._issue(text, lambda: self._carry_out(program, buffers, dtype, "sum", digest))

    def close(self, seconds: float) -> bool:
        """Let what was issued come to its end, for so long; whether it has. Nothing can be issued any more."""
        return self._tasks.close(seconds)

    def _staged(
        self, text: str, tensors: list[Tensor], carry_out: Callable[[Sequence[Tensor]], None], in_pieces: bool
    ) -> Future[None]:
        """Issue an operation on tensors on a device. One that treats every element alone can go in pieces."""
        source, target = tensors[0], tensors[-1]
        copies = self._stagings.setdefault(source.device, staging.Staging(source.device))
        ready = copies.ready()

        def run() -> None:
            ready()
            if in_pieces:
                for host in copies.in_pieces(source, target):
                    buffers = [host] if len(tensors) == 1 else [host, host.clone()]
                    carry_out(buffers)
                    host.copy_(buffers[-1])
                return
            hosts = [copies.fetch(source), torch.empty(target.shape, dtype=target.dtype)]
            carry_out(hosts)
            copies.put(target, hosts[-1])

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


def _title(operation: Operation, tensor: Tensor, op: str, root: int, wire: Wire) -> str:
    """What an operation is called: the same on all ranks that mean the same."""
    where = f" root {root}" if operation in _ROOTED else ""
    reduction = f" {op}" if operation in _REDUCING else ""
    text = f"{operation}{reduction}{where} of {tensor.numel()} x {str(tensor.dtype).removeprefix('torch.')}"
    return text + (f" as {wire}" if wire != "full" else "")


def _exchange(rank: int, buffers: Sequence[Tensor], targets: Sequence[int], sources: Sequence[int]) -> Program:
    """Send the first buffers to these ranks, receive the others from those."""
    steps = [Instruction(Op.SEND, buffers[i].numel(), left=Place(i, 0), peer=p) for i, p in enumerate(targets)]
    steps += [
        Instruction(Op.RECEIVE, buffers[i].numel(), target=Place(i, 0), peer=p)
        for i, p in enumerate(sources, len(targets))
    ]
    sizes = (*(b.numel() for b in buffers), 0)
    return Program(rank, sizes, len(buffers), 0, tuple(steps))
