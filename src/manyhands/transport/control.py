"""What ranks tell each other about operations, and how they learn that a peer or a link is gone.

A thread of its own listens on the control connections at all times, so a rank that computes, or waits
for someone else, answers. The kernel closes a dead process's connections at once. A host that cannot be reached any
more is noticed within two seconds: there is always a heartbeat on its way that its kernel would acknowledge, on a
connection with a short user timeout (wire.py). On connections for data such a timeout would also end those to ranks
that are busy elsewhere and do not read, so there the kernel is asked what it hears from the other end (TCP_INFO). A
rail whose interface goes down is reported by the kernel as it happens (netlink).

Said: `failed` (with the reason; ends the group everywhere), `waiting` (for whom, in which operation: how calls
that do not match are found though nobody sends anything), `here` (its answer, if they do match), `what` (came that does
not match), `plan` (from rank 0), `bye` (after which operation), and nothing (the heartbeat).

Whoever speaks never waits: what the kernel does not take is sent by the listening thread.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from manyhands.transport.interfaces import is_down
from manyhands.transport.link import Link
from manyhands.wire import FrameError, Frames, pack

_PATIENCE = 0.25
"""Seconds that a rank waits for a peer before it asks what keeps it."""
_HEARTBEAT = 0.4
_SILENCE = 1.5
"""Seconds without an answer to what was sent more than once, after which a host counts as out of reach."""
_GOODBYE = 1.0
"""Seconds that a rank that leaves gives the others to take what it said."""
_RTMGRP_LINK = 1

OnFrame = Callable[[int, dict[str, Any]], None]
OnLost = Callable[[int, str], None]
OnTick = Callable[[], None]


class Control:
    """The control connections of one rank.

    Args:
        sockets: one per peer.
        streams: connections for data over TCP, by peer.
        rails: interfaces that carry data, and the peers behind each.
        on_frame: called on the listening thread with a peer and what it said.
        on_lost: called on the listening thread with a peer that is gone and how.
        on_tick: called every quarter of a second while an operation runs.
    """

    def __init__(
        self,
        sockets: Mapping[int, socket.socket],
        streams: Sequence[tuple[int, socket.socket]],
        rails: Mapping[str, int],
        on_frame: OnFrame,
        on_lost: OnLost,
        on_tick: OnTick,
    ) -> None:
        self._sockets, self._streams = dict(sockets), list(streams)
        self._rails = rails
        self._on_frame, self._on_lost, self._on_tick = on_frame, on_lost, on_tick
        self._frames = {peer: Frames() for peer in sockets}
        self._unsent = {peer: bytearray() for peer in sockets}
        self._remote = [peer for peer, sock in sockets.items() if sock.family != socket.AF_UNIX]
        self._lock = threading.Lock()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._netlink = _netlink() if rails else None
        self._busy_since = 0.0
        self._idle = False
        self._ticked = self._beaten = 0.0
        self._closing = 0.0
        for sock in self._sockets.values():
            sock.setblocking(False)
        self._thread = threading.Thread(target=self._listen, daemon=True, name="manyhands-control")
        self._thread.start()

    @classmethod
    def over(cls, links: Mapping[int, Link], on_frame: OnFrame, on_lost: OnLost, on_tick: OnTick) -> Control | None:
        """The control connections of a rank with these links; None if it is alone."""
        if not links:
            return None
        controls = {peer: link.control for peer, link in links.items()}
        streams = [(peer, sock) for peer, link in links.items() for sock in link.streams]
        rails = {interface: peer for peer, link in links.items() for interface in link.interfaces.values() if interface}
        return cls(controls, streams, rails, on_frame, on_lost, on_tick)

    def say(self, peer: int, message: dict[str, Any]) -> None:
        """Tell a peer; if it is gone, that is noticed elsewhere."""
        with self._lock:
            if peer not in self._unsent:
                return
            self._unsent[peer] += pack(message)
            whole = self._push(peer)
        if not whole:
            os.eventfd_write(self._wake, 1)

    def tell_all(self, message: dict[str, Any]) -> None:
        for peer in list(self._sockets):
            self.say(peer, message)

    def busy(self, value: bool) -> None:
        """Say whether an operation runs: only then somebody may be waited for."""
        self._busy_since = time.monotonic() if value else 0.0
        if value and self._idle:
            os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        """Stop listening, once all that was said is sent, or cannot be within a second."""
        self._closing = time.monotonic() + _GOODBYE
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
        while not self._closing or (self._talking() and time.monotonic() < self._closing):
            for descriptor, peer in peers.items():
                if peer in self._unsent:
                    poll.modify(descriptor, select.POLLIN | (select.POLLOUT if self._unsent[peer] else 0))
            self._idle = True  # before the look at what it is about: whoever becomes busy from now on rings
            self._idle = not self._busy_since and not self._closing
            pause = _PATIENCE if not self._idle else _HEARTBEAT if self._remote else None
            for descriptor, events in poll.poll(None if pause is None else pause * 1000):
                if descriptor in peers:
                    self._attend(poll, descriptor, peers[descriptor], events)
                elif descriptor == self._wake:
                    os.eventfd_read(self._wake)
                elif self._netlink is not None:
                    self._link_changed()
            self._keep_watch()

    def _keep_watch(self) -> None:
        """Do what is done from time to time."""
        now, busy = time.monotonic(), self._busy_since
        if busy and now - max(busy, self._ticked) >= _PATIENCE:
            self._ticked = now
            self._on_tick()
        if self._remote and now - self._beaten >= _HEARTBEAT:
            self._beaten = now
            for peer in self._remote:
                if not self._unsent.get(peer):
                    self.say(peer, {})
            for peer, sock in self._streams:
                if is_unanswered(sock):
                    self._on_lost(peer, "cannot be reached (a connection to it gets no answer)")

    def _talking(self) -> bool:
        return any(self._unsent.values())

    def _attend(self, poll: select.poll, descriptor: int, peer: int, events: int) -> None:
        with self._lock:
            if events & select.POLLOUT and peer in self._unsent:
                self._push(peer)
        if events & ~select.POLLOUT and not self._read(peer):
            poll.unregister(descriptor)
            with self._lock:
                del self._unsent[peer]

    def _push(self, peer: int) -> bool:
        """Send what is to be said, as far as it goes; whether all went."""
        unsent = self._unsent[peer]
        try:
            while unsent:
                del unsent[: self._sockets[peer].send(unsent, socket.MSG_NOSIGNAL)]
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            unsent.clear()
        return True

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
        except (FrameError, KeyError, TypeError) as error:
            self._on_lost(peer, f"broke the protocol ({error!r})")
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


def is_unanswered(sock: socket.socket) -> bool:
    """Whether the other end's host is silent though the kernel has repeated what it sent, or its probes."""
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 60)
    except OSError:
        return False
    retransmits, probes = info[2:4]
    (milliseconds,) = struct.unpack_from("=I", info, 56)
    return max(retransmits, probes) >= 2 and milliseconds >= _SILENCE * 1000


def _netlink() -> socket.socket | None:
    try:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        sock.bind((0, _RTMGRP_LINK))
    except OSError:
        return None
    return sock
