"""The interpreter in Python over sockets: where there is no C compiler, and what the one in C is compared with.

Does the same as machine.c and speaks the same bytes, so both kinds can work in one group. Copies, additions
and socket calls release the GIL.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from manyhands.collective import Op
from manyhands.transport.interpreter.encode import Encoded
from manyhands.transport.interpreter.formats import decode_bf16, decode_int8, encode_bf16, encode_int8
from manyhands.transport.interpreter.outcome import (
    HEADER_SIZE,
    IDENTITY_AT,
    RANK_AT,
    TOTAL_AT,
    MachineError,
    Outcome,
)

_REDUCE: dict[str, Callable[..., Tensor]] = {
    "sum": torch.add,
    "min": torch.minimum,
    "max": torch.maximum,
    "prod": torch.mul,
}
_REDUCE_UNSIGNED: dict[str, Callable[..., np.ndarray]] = {
    "sum": np.add,
    "min": np.minimum,
    "max": np.maximum,
    "prod": np.multiply,
}
"""Reductions for what torch cannot compute with: unsigned integers of more than a byte."""
_ENCODE = {Op.ENCODE_BF16: encode_bf16, Op.ENCODE_INT8: encode_int8}
_DECODE = {Op.DECODE_BF16: decode_bf16, Op.DECODE_INT8: decode_int8}


class PortableMachine:
    """Carries out programs over sockets, one program at a time.

    Args:
        channels: connected sockets.
        bell: an eventfd that `abort` rings.
    """

    def __init__(self, channels: Sequence[socket.socket], bell: int) -> None:
        self._sockets = list(channels)
        self._bell = bell
        self._aborted = False
        self._queues: list[deque[memoryview]] = [deque() for _ in channels]
        self._traffic = [[0, 0] for _ in channels]
        self._buffers: list[np.ndarray] = []
        self._deadline = 0.0
        self._awaited: frozenset[int] = frozenset()

    def run(
        self,
        program: Encoded,
        buffers: Sequence[Tensor],
        dtype: torch.dtype,
        reduction: str,
        header: bytes,
        deadline: float,
    ) -> None:
        """Carry out a program, as `NativeMachine.run` does."""
        scratch = torch.empty(program.scratch * program.itemsize, dtype=torch.uint8)
        raw = [*(b.detach().reshape(-1).view(torch.uint8) if b.numel() else scratch[:0] for b in buffers), scratch]
        self._deadline = deadline
        if self._aborted:
            raise MachineError(Outcome.ABORTED, -1)
        try:
            self._carry_out(program, raw, dtype, reduction, header)
        except MachineError:
            self._aborted = True  # the channels are somewhere in the middle
            raise

    def _carry_out(
        self, program: Encoded, raw: list[Tensor], dtype: torch.dtype, reduction: str, header: bytes
    ) -> None:
        to_send, to_take = (_totals(program, ops) for ops in ((Op.SEND,), (Op.RECEIVE, Op.RECEIVE_ADD)))
        greeted: set[int] = set()
        checked: set[int] = set()
        for row in program.rows:
            op, channel, count = int(row["op"]), int(row["channel"]), int(row["count"]) * program.itemsize

            def at(which: str, row: np.void = row, count: int = count) -> Tensor:
                start = int(row[f"{which}_at"])
                return raw[int(row[which])][start : start + count]

            if int(row["target"]) >= 0:
                self._settle(at("target"))
            if op == Op.SEND:
                if channel not in greeted:
                    greeted.add(channel)
                    self._queue(channel, memoryview(header[:TOTAL_AT] + to_send[channel].to_bytes(8, "little")))
                self._queue(channel, _bytes(at("left")))
            elif op in (Op.RECEIVE, Op.RECEIVE_ADD):
                if channel not in checked:
                    checked.add(channel)
                    self._check(channel, header[:TOTAL_AT] + to_take[channel].to_bytes(8, "little"))
                if op == Op.RECEIVE:
                    self._take(channel, _bytes(at("target")))
                else:
                    came = torch.empty(count, dtype=torch.uint8)
                    self._take(channel, _bytes(came))
                    _combine(reduction, dtype, at("target"), at("left"), came)
            elif op in _ENCODE:
                left, right = at("left"), at("right") if int(row["right"]) >= 0 else None
                _ENCODE[op](_wire(raw, row, "target"), _floats(left), None if right is None else _floats(right))
            elif op in _DECODE:
                value = _DECODE[op](int(row["count"]), _wire(raw, row, "right"))
                _floats(at("target"))[:] = value if int(row["left"]) < 0 else _floats(at("left")) + value
            elif op == Op.ADD:
                _combine(reduction, dtype, at("target"), at("left"), at("right"))
            else:
                at("target").copy_(at("left"))
        while any(self._queues):
            self._wait(-1)

    def abort(self) -> None:
        """End the program that runs, and all that follow; from any thread."""
        self._aborted = True
        os.eventfd_write(self._bell, 1)

    def waits_for(self, channel: int) -> bool:
        """Whether the running program waits for bytes from this channel, or for room in it."""
        return channel in self._awaited

    def traffic(self, channel: int) -> tuple[int, int]:
        """Bytes sent and received so far."""
        sent, received = self._traffic[channel]
        return sent, received

    def close(self) -> None:
        self._queues = []

    def _queue(self, channel: int, data: memoryview) -> None:
        if len(data):
            self._queues[channel].append(data)
            self._push(channel)

    def _push(self, channel: int) -> None:
        queue = self._queues[channel]
        while queue:
            try:
                moved = self._sockets[channel].send(queue[0], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                raise MachineError(Outcome.LOST, channel) from None
            self._traffic[channel][0] += moved
            if moved == len(queue[0]):
                queue.popleft()
            else:
                queue[0] = queue[0][moved:]

    def _take(self, channel: int, target: memoryview) -> None:
        """Fill `target` from the channel."""
        while len(target):
            try:
                got = self._sockets[channel].recv_into(target, len(target), socket.MSG_DONTWAIT)
            except (BlockingIOError, InterruptedError):
                self._wait(channel)
                continue
            except OSError:
                got = 0
            if got == 0:
                raise MachineError(Outcome.LOST, channel)
            self._traffic[channel][1] += got
            target = target[got:]

    def _check(self, channel: int, header: bytes) -> None:
        came = bytearray(HEADER_SIZE)
        self._take(channel, memoryview(came))
        if came[:RANK_AT] != header[:RANK_AT] or came[IDENTITY_AT:] != header[IDENTITY_AT:]:
            raise MachineError(Outcome.MISMATCH, channel, bytes(came))

    def _settle(self, target: Tensor) -> None:
        """Wait until nothing that is still to be sent lies in `target`."""
        start, stop = target.data_ptr(), target.data_ptr() + target.numel()

        def overlaps() -> bool:
            for queue in self._queues:
                for data in queue:
                    address = np.frombuffer(data, np.uint8).ctypes.data
                    if address < stop and start < address + len(data):
                        return True
            return False

        while any(self._queues) and overlaps():
            self._wait(-1)

    def _wait(self, channel: int) -> None:
        """Wait for bytes from `channel`, or for room for what is queued; send that."""
        poll = select.poll()
        poll.register(self._bell, select.POLLIN)
        for index, queue in enumerate(self._queues):
            events = (select.POLLIN if index == channel else 0) | (select.POLLOUT if queue else 0)
            if events:
                poll.register(self._sockets[index], events)
        self._awaited = frozenset(i for i, queue in enumerate(self._queues) if queue or i == channel)
        left = max(0.0, self._deadline - time.monotonic())
        woken = [] if self._aborted else poll.poll(min(left, 3600.0) * 1000 + 1)
        self._awaited = frozenset()
        if self._aborted:
            raise MachineError(Outcome.ABORTED, channel)
        if not woken and time.monotonic() >= self._deadline:
            waiting = channel if channel >= 0 else next(i for i, queue in enumerate(self._queues) if queue)
            raise MachineError(Outcome.TIMED_OUT, waiting)
        for index, queue in enumerate(self._queues):
            if queue:
                self._push(index)


def _totals(program: Encoded, ops: tuple[Op, ...]) -> dict[int, int]:
    """Bytes of all instructions of a kind, by channel."""
    rows = program.rows[np.isin(program.rows["op"], ops)]
    return {
        int(channel): int(rows["count"][rows["channel"] == channel].sum()) * program.itemsize
        for channel in np.unique(rows["channel"])
    }


def _floats(tensor: Tensor) -> np.ndarray:
    return tensor.view(torch.float32).numpy()


def _wire(raw: Sequence[Tensor], row: np.void, which: str) -> np.ndarray:
    """The bytes from a place on, as long as its buffer goes."""
    return raw[int(row[which])][int(row[f"{which}_at"]) :].numpy()


def _bytes(tensor: Tensor) -> memoryview:
    return memoryview(tensor.numpy())  # type: ignore[bad-argument-type]


def _combine(reduction: str, dtype: torch.dtype, target: Tensor, left: Tensor, right: Tensor) -> None:
    target, left, right = (tensor.view(dtype) for tensor in (target, left, right))
    if dtype in (torch.uint16, torch.uint32, torch.uint64):
        _REDUCE_UNSIGNED[reduction](left.numpy(), right.numpy(), out=target.numpy())
    else:
        _REDUCE[reduction](left, right, out=target)
