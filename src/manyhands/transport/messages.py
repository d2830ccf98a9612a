"""Single tensors from rank to rank, matched by sender and tag (mailbox.py); any number at once, in both directions.

Apart from the collectives' channels, because a send must not wait for, or hold up, the operations around it.

A message is `MAGIC, dtype (u8), tag (i64), size (u64, bytes)`, little-endian, then its bytes.
"""

from __future__ import annotations

import os
import selectors
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from manyhands.transport.errors import GroupError, PeerLostError
from manyhands.transport.interpreter import DTYPES
from manyhands.transport.mailbox import Arrived, Mailbox, Wanted, deliver, mismatch, raw

_HEAD = struct.Struct("<4sBqQ")
_MAGIC = b"MHMS"
MAX_MESSAGE = 1 << 40


@dataclass
class _Peer:
    sock: socket.socket
    unsent: deque[tuple[memoryview, Future[None] | None]] = field(default_factory=deque)
    head: bytearray = field(default_factory=bytearray)
    body: Tensor | None = None
    filled: int = 0
    wanted: Wanted | None = None
    """The request for the message that is coming in."""
    skipped: bool = False
    """Whether whoever asked for the message could not take it."""
    lost: str = ""


class Messages:
    """Sends and receives over one socket per peer, on a thread of its own that starts with the first use.

    Args:
        sockets: by peer.
        why: asked when a peer's connection ends: what broke before, if that is why it left.
    """

    def __init__(self, rank: int, sockets: Mapping[int, socket.socket], why: Callable[[int], Exception | None]) -> None:
        self.rank, self._why = rank, why
        self.sent = 0
        """Bytes of tensors that were sent so far."""
        self._failed: Exception | None = None
        self._peers = {peer: _Peer(sock) for peer, sock in sockets.items()}
        self._mailbox = Mailbox()
        self._lock = threading.Lock()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread: threading.Thread | None = None
        self._closing = False
        for peer in self._peers.values():
            peer.sock.setblocking(False)

    def send(self, tensor: Tensor, peer: int, tag: int) -> Future[None]:
        """Send a contiguous CPU tensor. Done when the kernel has all of it."""
        future: Future[None] = _future()
        body = memoryview(raw(tensor).numpy())  # type: ignore[arg-type]
        head = _HEAD.pack(_MAGIC, DTYPES.index(tensor.dtype), tag, len(body))
        with self._lock:
            entry = self._peers[peer]
            if self._failed is not None:
                future.set_exception(self._failed)
                return future
            if entry.lost:
                doing = f"rank {self.rank} was sending it a message (tag {tag})"
                future.set_exception(PeerLostError(peer, doing, entry.lost))
                return future
            self.sent += len(body)
            moved = 0 if entry.unsent else _send_now(entry.sock, head, body)
            if moved == len(head) + len(body):
                future.set_result(None)
            elif moved < len(head):
                entry.unsent.append((memoryview(head)[moved:], None if len(body) else future))
                if len(body):
                    entry.unsent.append((body, future))
            else:
                entry.unsent.append((body[moved - len(head) :], future))
        if not future.done() or self._thread is None:
            self._awake()
        return future

    def receive(self, tensor: Tensor, peer: int | None, tag: int) -> Future[int]:
        """Receive into a contiguous CPU tensor, from a rank or from any (None). The result is the sender's rank."""
        wanted = Wanted(tensor, raw(tensor), peer, tag, _future())
        with self._lock:
            if self._failed is not None:
                wanted.future.set_exception(self._failed)
                return wanted.future
            if (arrived := self._mailbox.take_arrived(peer, tag)) is not None:
                deliver(wanted, arrived)
                return wanted.future
            gone = [(p, e.lost) for p, e in self._peers.items() if peer in (None, p)]
            if not gone:
                raise ValueError(f"rank {self.rank} has no other rank to receive a message from")
            if all(why for _, why in gone):
                wanted.future.set_exception(PeerLostError(gone[0][0], self._waiting(tag), gone[0][1]))
                return wanted.future
            self._mailbox.want(wanted)
        self._awake()
        return wanted.future

    def fail(self, error: Exception) -> None:
        """Nothing more will come: end all that wait."""
        with self._lock:
            self._failed = self._failed or error
            waiting = [w.future for w in self._mailbox.give_up()]
            waiting += [f for e in self._peers.values() for _, f in e.unsent if f is not None]
            waiting += [e.wanted.future for e in self._peers.values() if e.wanted is not None]
            for entry in self._peers.values():
                entry.unsent.clear()
                entry.wanted = None
                entry.lost = entry.lost or "is out of reach"
        for future in waiting:
            future.set_exception(error)

    def close(self) -> None:
        self._closing = True
        if self._thread is not None and threading.current_thread() is not self._thread:
            os.eventfd_write(self._wake, 1)
            self._thread.join(5.0)
        self.fail(GroupError("the group was closed"))
        for entry in self._peers.values():
            entry.sock.close()
        with self._lock:
            os.close(self._wake)
            self._wake = -1

    def _awake(self) -> None:
        with self._lock:
            if self._wake < 0:
                return  # closed; what was asked for has failed
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
                    return  # it has failed
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
            wanted = self._mailbox.take_wanted(rank, tag)
            error = None if wanted is None else mismatch(wanted, rank, DTYPES[code], size)
            if wanted is not None and error is None:
                entry.wanted, entry.body = wanted, wanted.raw
        if wanted is not None and error is not None:
            wanted.future.set_exception(error)
        if entry.body is None:
            try:
                entry.body = torch.empty(size, dtype=torch.uint8)
            except RuntimeError:
                self._lose(rank, f"sent {size} bytes that nobody asked for, for which there is no memory")
                return
            entry.skipped = wanted is not None
        entry.filled = 0

    def _finish(self, rank: int) -> None:
        entry = self._peers[rank]
        _, code, tag, _ = _HEAD.unpack(entry.head)
        assert entry.body is not None
        with self._lock:
            wanted, skipped = entry.wanted, entry.skipped or bool(entry.lost)
            arrived = Arrived(rank, tag, DTYPES[code], entry.body)
            entry.head, entry.body, entry.wanted, entry.skipped = bytearray(), None, None, False
            # One that was not asked for when it began may have been meanwhile.
            other = self._mailbox.take_wanted(rank, tag) if wanted is None and not skipped else None
            if wanted is None and not skipped and other is None:
                self._mailbox.keep(arrived)
        if wanted is not None:
            wanted.future.set_result(rank)
        elif other is not None:
            deliver(other, arrived)

    def _lose(self, rank: int, why: str) -> None:
        entry = self._peers[rank]
        if (reason := self._why(rank)) is not None:
            self.fail(reason)
        with self._lock:
            entry.lost = why
            sending = f"rank {self.rank} was sending it a message"
            failed: list[tuple[Future, str]] = [(f, sending) for _, f in entry.unsent if f is not None]
            entry.unsent.clear()
            if entry.wanted is not None:
                failed.append((entry.wanted.future, self._waiting(entry.wanted.tag)))
                entry.wanted = None
            nobody = all(e.lost for e in self._peers.values())
            failed += [(w.future, self._waiting(w.tag)) for w in self._mailbox.give_up(None if nobody else rank)]
        for future, doing in failed:
            future.set_exception(PeerLostError(rank, doing, why))

    def _waiting(self, tag: int) -> str:
        return f"rank {self.rank} waited for a message (tag {tag})"


def _future() -> Future[Any]:
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()  # what a peer takes part in cannot be cancelled
    return future


def _send_now(sock: socket.socket, head: bytes, body: memoryview) -> int:
    """What the kernel takes at once, in bytes: waking a thread for it would take three times as long."""
    try:
        return sock.sendmsg([head, body])
    except OSError:  # there is no room, or an error that the thread will meet again, and can tell
        return 0
