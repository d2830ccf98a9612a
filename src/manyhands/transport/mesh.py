"""The gang's wires on one host: a stream socket between every two workers.

Tensors lie in shared memory; what travels here are 8-byte notes ("bucket 3 is ready") and the odd small
message. A system call is the fence that makes what was written before a note visible after it. A worker that
dies, however it dies, closes its sockets, so its peers know in microseconds and without any timeout.

Frame: `kind: u8, pad: u8, bucket: u16, value: u32`, little-endian; kind `DATA` is followed by `value` bytes,
at most `MAX_DATA`.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Sequence

from manyhands.transport.errors import PeerLostError
from manyhands.transport.memory import SharedMemory

READY = 1
REDUCED = 2
DATA = 3
MAX_DATA = 64 << 20

_FRAME = struct.Struct("<BBHI")


class Mesh:
    """Links from this worker to all others of its generation.

    Args:
        rank: this worker's rank.
        links: a connected stream socket per rank; None at this worker's own place.
        timeout: seconds that a wait may last before `TimeoutError` names who was waited for. The supervisor's
            hang detection is quicker; this only bounds a wait that nobody watches.
        on_wait: called with True when a wait has to block, and with False when it is over.
    """

    def __init__(
        self,
        rank: int,
        links: Sequence[socket.socket | None],
        timeout: float = 3600.0,
        on_wait: Callable[[bool], None] = lambda waiting: None,
    ) -> None:
        self.rank = rank
        self._on_wait = on_wait
        self.world = len(links)
        self.timeout = timeout
        self._links = {r: link for r, link in enumerate(links) if link is not None}
        self._by_fd = {link.fileno(): r for r, link in self._links.items()}
        self._poll = select.poll()
        for link in self._links.values():
            link.setblocking(False)
            self._poll.register(link, select.POLLIN)
        self._unread = {r: bytearray() for r in self._links}
        self._unsent = {r: bytearray() for r in self._links}
        self._lost: set[int] = set()
        self._notes: dict[tuple[int, int, int], set[int]] = {}
        self._data: dict[int, deque[bytes]] = {r: deque() for r in self._links}

    def note(self, kind: int, bucket: int, value: int) -> None:
        """Tell every peer `(kind, bucket, value)`."""
        frame = _FRAME.pack(kind, 0, bucket, value & 0xFFFFFFFF)
        for rank in self._links:
            self._unsent[rank] += frame
            self._flush(rank)

    def noted(self, kind: int, bucket: int, value: int) -> bool:
        """Whether every peer has said `(kind, bucket, value)`; reads what has arrived, never waits."""
        return len(self._notes.get((kind, bucket, value & 0xFFFFFFFF), ())) == len(self._links)

    def forget(self, kind: int, bucket: int, value: int) -> None:
        """Drop a note that has served."""
        self._notes.pop((kind, bucket, value & 0xFFFFFFFF), None)

    def wait_noted(self, kind: int, bucket: int, value: int, doing: str) -> None:
        """Wait until every peer has said `(kind, bucket, value)`.

        Raises:
            PeerLostError: a peer that has not said it is gone.
            TimeoutError: `timeout` seconds went by; names the peers.
        """
        key = (kind, bucket, value & 0xFFFFFFFF)
        self._wait(lambda: (self._links.keys() - self._notes.get(key, set())) | self._behind(), doing)

    def share(self, memory: SharedMemory) -> list[SharedMemory]:
        """Give every peer this worker's memory and get theirs: the views of all ranks, in rank order.

        Only a process of the same kernel can be handed a descriptor, so this also proves the shared host. Call it
        before anything else is sent.

        Raises:
            PeerLostError: a peer is gone.
        """
        views: dict[int, SharedMemory] = {self.rank: memory}
        for rank, link in self._links.items():
            try:
                socket.send_fds(link, [b"m"], [memory.descriptor])
            except OSError:
                raise PeerLostError(rank, "sharing memory") from None

        def missing() -> set[int]:
            return self._links.keys() - views.keys()

        def receive(rank: int) -> None:
            if rank in views:  # it has everyone's memory and speaks already
                self._read(rank)
                return
            try:
                tag, descriptors, _, _ = socket.recv_fds(self._links[rank], 1, 1)
            except BlockingIOError:
                return
            except OSError:
                tag, descriptors = b"", []
            if not tag or not descriptors:
                self._lose(rank)
            else:
                os.set_inheritable(descriptors[0], False)
                views[rank] = SharedMemory(0, descriptors[0])

        try:
            self._wait(missing, "sharing memory", reader=receive)
        except BaseException:
            for view in views.values():
                view.close()
            raise
        return [views[rank] for rank in range(self.world)]

    def all_gather(self, payload: bytes, doing: str) -> list[bytes]:
        """Everyone's payload, in rank order."""
        if len(payload) > MAX_DATA:
            raise ValueError(f"{len(payload)} bytes are over the {MAX_DATA} bytes a message may have")
        for rank in self._links:
            self._unsent[rank] += _FRAME.pack(DATA, 0, 0, len(payload)) + payload
            self._flush(rank)
        self._wait(lambda: {r for r in self._links if not self._data[r]} | self._behind(), doing)
        return [payload if r == self.rank else self._data[r].popleft() for r in range(self.world)]

    def progress(self, reader: Callable[[int], None] | None = None) -> None:
        """Send what is waiting to be sent and read what has arrived, without waiting."""
        for rank in self._behind():
            self._flush(rank)
        for descriptor, _ in self._poll.poll(0):
            (reader or self._read)(self._by_fd[descriptor])

    def check(self) -> None:
        """Raise `PeerLostError` if a peer is known to be gone."""
        self.progress()
        for rank in self._lost:
            raise PeerLostError(rank, "computing")

    def close(self) -> None:
        for link in self._links.values():
            link.close()

    def _behind(self) -> set[int]:
        """Peers that have not taken all that was said to them; a lost one never will."""
        return {rank for rank, unsent in self._unsent.items() if unsent and rank not in self._lost}

    def _flush(self, rank: int) -> None:
        """Send as much as the peer's socket takes now."""
        unsent = self._unsent[rank]
        try:
            while unsent:
                del unsent[: self._links[rank].send(unsent)]
        except BlockingIOError:
            pass
        except OSError:
            unsent.clear()  # noticed when something is awaited from it: it may have said all it had to

    def _lose(self, rank: int) -> None:
        self._lost.add(rank)
        self._poll.unregister(self._links[rank])

    def _wait(self, missing: Callable[[], set[int]], doing: str, reader: Callable[[int], None] | None = None) -> None:
        self.progress(reader)
        if not missing():
            return
        self._on_wait(True)
        try:
            deadline = time.monotonic() + self.timeout
            while waiting := missing():
                for rank in sorted(waiting & self._lost):
                    raise PeerLostError(rank, doing)
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    names = ", ".join(f"worker {r}" for r in sorted(waiting))
                    raise TimeoutError(f"{doing}: waited {self.timeout:.0f} s for {names}")
                self._await_any(remaining, reader or self._read)
        finally:
            self._on_wait(False)

    def _await_any(self, seconds: float, reader: Callable[[int], None]) -> None:
        """Wait until a peer has said something, or takes more of what is waiting for it."""
        behind = self._behind()
        for rank in behind:
            self._poll.modify(self._links[rank], select.POLLIN | select.POLLOUT)
        events = self._poll.poll(seconds * 1e3)
        for rank in behind:
            self._poll.modify(self._links[rank], select.POLLIN)
        for descriptor, event in events:
            if event & select.POLLOUT:
                self._flush(self._by_fd[descriptor])
            if event & ~select.POLLOUT:
                reader(self._by_fd[descriptor])

    def _read(self, rank: int) -> None:
        link, unread = self._links[rank], self._unread[rank]
        try:
            received = link.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            received = b""
        if not received:
            self._lose(rank)
            return
        unread += received
        position = 0
        while len(unread) - position >= _FRAME.size:
            kind, _, bucket, value = _FRAME.unpack_from(unread, position)
            end = position + _FRAME.size
            if kind == DATA:
                if value > MAX_DATA:
                    raise ValueError(f"worker {rank} announced {value} bytes; the bound is {MAX_DATA}")
                if len(unread) < end + value:
                    break
                self._data[rank].append(bytes(unread[end : end + value]))
                end += value
            else:
                self._notes.setdefault((kind, bucket, value), set()).add(rank)
            position = end
        del unread[:position]
