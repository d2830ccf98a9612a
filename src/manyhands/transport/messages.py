"""Single tensors from rank to rank, matched by sender and tag; any number at once, in both directions.

Apart from the collectives' channels, because a send must not wait for, or hold up, the operations around it. What
arrives before it is asked for is kept; of one sender and tag, first come is first served.

A message is `MAGIC, dtype (u8), tag (i64), size (u64, bytes)`, little-endian, then its bytes.
"""

from __future__ import annotations

import os
import selectors
import socket
import struct
import threading
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from manyhands.transport.errors import GroupError, MismatchError, PeerLostError
from manyhands.transport.interpreter import DTYPES

_HEAD = struct.Struct("<4sBqQ")
_MAGIC = b"MHMS"
MAX_MESSAGE = 1 << 40


class _Wanted(NamedTuple):
    tensor: Tensor
    peer: int | None
    tag: int
    future: Future[int]


class _Arrived(NamedTuple):
    peer: int
    tag: int
    dtype: torch.dtype
    data: Tensor


@dataclass
class _Peer:
    sock: socket.socket
    unsent: deque[tuple[memoryview, Future[None] | None]] = field(default_factory=deque)
    head: bytearray = field(default_factory=bytearray)
    body: Tensor | None = None
    filled: int = 0
    wanted: _Wanted | None = None
    """Who asked for the message that is coming in."""
    lost: str = ""


class Messages:
    """Sends and receives over one socket per peer, on a thread of its own that starts with the first use."""

    def __init__(self, rank: int, sockets: Mapping[int, socket.socket]) -> None:
        self.rank = rank
        self._peers = {peer: _Peer(sock) for peer, sock in sockets.items()}
        self._wanted: deque[_Wanted] = deque()
        self._arrived: deque[_Arrived] = deque()
        self._lock = threading.Lock()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread: threading.Thread | None = None
        self._closing = False
        for peer in self._peers.values():
            peer.sock.setblocking(False)

    def send(self, tensor: Tensor, peer: int, tag: int) -> Future[None]:
        """Send a contiguous CPU tensor. Done when the kernel has all of it."""
        future: Future[None] = Future()
        body = memoryview(_raw(tensor).numpy())  # type: ignore[arg-type]
        head = _HEAD.pack(_MAGIC, DTYPES.index(tensor.dtype), tag, len(body))
        with self._lock:
            entry = self._peers[peer]
            if entry.lost:
                future.set_exception(PeerLostError(peer, f"sending it a message (tag {tag})", entry.lost))
                return future
            entry.unsent.append((memoryview(head), None if len(body) else future))
            if len(body):
                entry.unsent.append((body, future))
        self._awake()
        return future

    def receive(self, tensor: Tensor, peer: int | None, tag: int) -> Future[int]:
        """Receive into a contiguous CPU tensor, from a rank or from any (None). The result is the sender's rank."""
        wanted = _Wanted(tensor, peer, tag, Future())
        with self._lock:
            for arrived in self._arrived:
                if arrived.tag == tag and peer in (None, arrived.peer):
                    self._arrived.remove(arrived)
                    _deliver(wanted, arrived)
                    return wanted.future
            gone = [e.lost for p, e in self._peers.items() if peer in (None, p)]
            if gone and all(gone):
                wanted.future.set_exception(
                    PeerLostError(peer if peer is not None else -1, self._waiting(tag), gone[0])
                )
                return wanted.future
            self._wanted.append(wanted)
        self._awake()
        return wanted.future

    def fail(self, error: Exception) -> None:
        """Nothing more will come: end all that wait."""
        with self._lock:
            waiting = [w.future for w in self._wanted]
            waiting += [f for e in self._peers.values() for _, f in e.unsent if f is not None]
            waiting += [e.wanted.future for e in self._peers.values() if e.wanted is not None]
            self._wanted.clear()
            for entry in self._peers.values():
                entry.unsent.clear()
                entry.wanted = None
                entry.lost = entry.lost or "is out of reach"
        for future in waiting:
            if not future.done():
                future.set_exception(error)

    def close(self) -> None:
        self._closing = True
        if self._thread is not None:
            os.eventfd_write(self._wake, 1)
            self._thread.join(5.0)
        self.fail(GroupError("the group was closed"))
        for entry in self._peers.values():
            entry.sock.close()
        os.close(self._wake)

    def _awake(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, daemon=True, name="manyhands-messages")
                self._thread.start()
        os.eventfd_write(self._wake, 1)

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake, selectors.EVENT_READ, None)
            watched: dict[int, int] = {}
            while not self._closing:
                for rank, entry in self._peers.items():
                    events = 0 if entry.lost else selectors.EVENT_READ
                    if entry.unsent and not entry.lost:
                        events |= selectors.EVENT_WRITE
                    if watched.get(rank, 0) == events:
                        continue
                    if watched.get(rank, 0):
                        selector.unregister(entry.sock)
                    if events:
                        selector.register(entry.sock, events, rank)
                    watched[rank] = events
                for key, events in selector.select():
                    if key.data is None:
                        os.eventfd_read(self._wake)
                        continue
                    if events & selectors.EVENT_WRITE:
                        self._write(key.data)
                    if events & selectors.EVENT_READ:
                        self._read(key.data)

    def _write(self, rank: int) -> None:
        entry = self._peers[rank]
        while entry.unsent:
            data, future = entry.unsent[0]
            try:
                moved = entry.sock.send(data)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._lose(rank, error.strerror or "was lost")
                return
            with self._lock:
                if not entry.unsent:
                    return
                if moved < len(data):
                    entry.unsent[0] = (data[moved:], future)
                    continue
                entry.unsent.popleft()
            if future is not None:
                future.set_result(None)

    def _read(self, rank: int) -> None:
        entry = self._peers[rank]
        while not entry.lost:
            try:
                if entry.body is None:
                    data = entry.sock.recv(_HEAD.size - len(entry.head))
                    entry.head += data
                    got = len(data)
                else:
                    got = entry.sock.recv_into(memoryview(entry.body.numpy())[entry.filled :])  # type: ignore[arg-type]
                    entry.filled += got
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._lose(rank, error.strerror or "was lost")
                return
            if got == 0:
                self._lose(rank, "was lost")
                return
            if entry.body is None and len(entry.head) == _HEAD.size:
                self._begin(rank)
            if entry.body is not None and entry.filled == entry.body.numel():
                self._finish(rank)

    def _begin(self, rank: int) -> None:
        """A head is whole: choose where the body goes."""
        entry = self._peers[rank]
        magic, code, tag, size = _HEAD.unpack(entry.head)
        if magic != _MAGIC or code >= len(DTYPES) or size > MAX_MESSAGE:
            self._lose(rank, "sent something that is no message")
            return
        with self._lock:
            for wanted in self._wanted:
                if wanted.tag == tag and wanted.peer in (None, rank):
                    self._wanted.remove(wanted)
                    if _mismatch(wanted, rank, DTYPES[code], size) is None:
                        entry.wanted = wanted
                    else:
                        wanted.future.set_exception(_mismatch(wanted, rank, DTYPES[code], size))
                    break
        if entry.wanted is not None:
            entry.body = _raw(entry.wanted.tensor)
        else:
            entry.body = torch.empty(size, dtype=torch.uint8)
        entry.filled = 0

    def _finish(self, rank: int) -> None:
        entry = self._peers[rank]
        _, code, tag, _ = _HEAD.unpack(entry.head)
        assert entry.body is not None
        body, wanted = entry.body, entry.wanted
        entry.head, entry.body, entry.wanted = bytearray(), None, None
        if wanted is not None:
            wanted.future.set_result(rank)
            return
        arrived = _Arrived(rank, tag, DTYPES[code], body)
        with self._lock:
            for other in self._wanted:  # it may have been asked for meanwhile
                if other.tag == tag and other.peer in (None, rank):
                    self._wanted.remove(other)
                    _deliver(other, arrived)
                    return
            self._arrived.append(arrived)

    def _lose(self, rank: int, why: str) -> None:
        entry = self._peers[rank]
        with self._lock:
            entry.lost = why
            failed: list[tuple[Future, str]] = [(f, "sending it a message") for _, f in entry.unsent if f is not None]
            entry.unsent.clear()
            if entry.wanted is not None:
                failed.append((entry.wanted.future, self._waiting(entry.wanted.tag)))
                entry.wanted = None
            for wanted in list(self._wanted):
                if wanted.peer == rank or all(e.lost for e in self._peers.values()):
                    self._wanted.remove(wanted)
                    failed.append((wanted.future, self._waiting(wanted.tag)))
        for future, doing in failed:
            future.set_exception(PeerLostError(rank, doing, why))

    def _waiting(self, tag: int) -> str:
        return f"rank {self.rank} waited for a message (tag {tag})"


def _raw(tensor: Tensor) -> Tensor:
    return tensor.detach().reshape(-1).view(torch.uint8) if tensor.numel() else torch.empty(0, dtype=torch.uint8)


def _mismatch(wanted: _Wanted, rank: int, dtype: torch.dtype, size: int) -> MismatchError | None:
    expected = wanted.tensor.numel() * wanted.tensor.element_size()
    if dtype == wanted.tensor.dtype and size == expected:
        return None
    return MismatchError(
        f"rank {rank} sent {size} bytes of {dtype} (tag {wanted.tag}) where {expected} bytes of {wanted.tensor.dtype} "
        "were to be received. Give the receiver a tensor of the sender's shape and dtype."
    )


def _deliver(wanted: _Wanted, arrived: _Arrived) -> None:
    error = _mismatch(wanted, arrived.peer, arrived.dtype, arrived.data.numel())
    if error is not None:
        wanted.future.set_exception(error)
        return
    _raw(wanted.tensor).copy_(arrived.data)
    wanted.future.set_result(arrived.peer)
