"""What ranks tell each other about operations, and how they learn that a peer or a link is gone.

A thread of its own listens on the control connections at all times, so a rank that computes, or waits
for someone else, answers. The kernel closes a dead process's connections at once; for hosts that cannot be reached
any more it is told to notice within two seconds (rendezvous.py), and a rail whose interface goes down is reported by
the kernel as it happens (netlink).

Said: `failed` (with the reason; ends the group everywhere), `waiting` (for whom, in which operation: how calls
that do not match are found though nobody sends anything), `plan` (from rank 0), `bye` (after which operation).
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from manyhands.transport.interfaces import is_down
from manyhands.transport.wire import FrameError, Frames, pack

_PATIENCE = 0.25
"""Seconds that a rank waits for a peer before it asks what keeps it."""
_RTMGRP_LINK = 1

OnFrame = Callable[[int, dict[str, Any]], None]
OnLost = Callable[[int, str], None]


class Control:
    """The control connections of one rank.

    Args:
        sockets: one per peer.
        rails: interfaces that carry data, and the peers behind each.
        on_frame: called on the listening thread with a peer and what it said.
        on_lost: called on the listening thread with a peer that is gone and how.
        on_tick: called every quarter of a second while an operation runs.
    """

    def __init__(
        self,
        sockets: Mapping[int, socket.socket],
        rails: Mapping[str, int],
        on_frame: OnFrame,
        on_lost: OnLost,
        on_tick: Callable[[], None],
    ) -> None:
        self._sockets = dict(sockets)
        self._rails = rails
        self._on_frame, self._on_lost, self._on_tick = on_frame, on_lost, on_tick
        self._frames = {peer: Frames() for peer in sockets}
        self._lock = threading.Lock()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._netlink = _netlink() if rails else None
        self._busy_since = 0.0
        self._closing = False
        for sock in self._sockets.values():
            sock.setblocking(False)
        self._thread = threading.Thread(target=self._listen, daemon=True, name="manyhands-control")
        self._thread.start()

    def say(self, peer: int, message: dict[str, Any]) -> None:
        """Tell a peer; if it is gone, or its buffer full because it is stuck, that is noticed elsewhere."""
        data = pack(message)
        deadline = time.monotonic() + 1.0
        with self._lock:
            while data and (sock := self._sockets.get(peer)) is not None:
                try:
                    data = data[sock.send(data, socket.MSG_NOSIGNAL) :]
                except (BlockingIOError, InterruptedError):
                    left = deadline - time.monotonic()
                    if left <= 0:
                        return
                    poll = select.poll()
                    poll.register(sock, select.POLLOUT)
                    poll.poll(left * 1000)
                except OSError:
                    return

    def tell_all(self, message: dict[str, Any]) -> None:
        for peer in list(self._sockets):
            self.say(peer, message)

    def busy(self, value: bool) -> None:
        """Whether an operation runs: only then somebody may be waited for."""
        first = value and not self._busy_since
        self._busy_since = time.monotonic() if value else 0.0
        if first and self._idle:
            os.eventfd_write(self._wake, 1)

    _idle = False

    def close(self) -> None:
        self._closing = True
        os.eventfd_write(self._wake, 1)
        if threading.current_thread() is not self._thread:
            self._thread.join(5.0)
        for sock in self._sockets.values():
            sock.close()
        if self._netlink is not None:
            self._netlink.close()
        os.close(self._wake)

    def _listen(self) -> None:
        poll = select.poll()
        peers = {sock.fileno(): peer for peer, sock in self._sockets.items()}
        for descriptor in peers:
            poll.register(descriptor, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        if self._netlink is not None:
            poll.register(self._netlink, select.POLLIN)
        while not self._closing:
            busy = self._busy_since
            self._idle = not busy
            ready = poll.poll(_PATIENCE * 1000 if busy else None)
            for descriptor, _ in ready:
                if descriptor in peers:
                    if not self._read(peers[descriptor]):
                        poll.unregister(descriptor)
                elif descriptor == self._wake:
                    os.eventfd_read(self._wake)
                elif self._netlink is not None:
                    self._link_changed()
            busy = self._busy_since
            if busy and time.monotonic() - busy >= _PATIENCE:
                self._on_tick()

    def _read(self, peer: int) -> bool:
        """Take in what a peer says; False when there is no more to come."""
        try:
            data = self._sockets[peer].recv(1 << 16)
        except (BlockingIOError, InterruptedError):
            return True
        except OSError as error:
            self._on_lost(peer, f"was lost ({error.strerror})")
            return False
        if not data:
            self._on_lost(peer, "was lost (its process ended)")
            return False
        try:
            for frame in self._frames[peer].feed(data):
                self._on_frame(peer, frame)
        except FrameError as error:
            self._on_lost(peer, f"broke the protocol ({error})")
            return False
        return True

    def _link_changed(self) -> None:
        assert self._netlink is not None
        try:
            self._netlink.recv(1 << 16)
        except OSError:
            pass  # an overrun: look all the same
        for interface, peer in self._rails.items():
            if is_down(interface):
                self._on_lost(peer, f"cannot be reached (interface {interface} is down)")


def _netlink() -> socket.socket | None:
    try:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        sock.bind((0, _RTMGRP_LINK))
    except OSError:
        return None
    return sock
