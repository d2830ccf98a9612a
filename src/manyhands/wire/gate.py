"""Lets in who proves to know a secret, and goes on doing so whatever strangers do.

Whoever can reach a port can open connections to it and say nothing. So those that have proven nothing yet are few, from
every address and in all, and short: where there are too many, the oldest of the busiest address has to go. It is given
a moment first, in which a peer that is no stranger has long proven itself, and meanwhile others wait in the kernel.
Nothing that happens to one connection, or to the process, such as having no descriptors left, ends the accepting.

Cost: a thread for every connection that has proven nothing yet, at most `Limits.at_once`.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from manyhands.wire.handshake import StrangerError, admit
from manyhands.wire.strangers import TurnedAway

BACKLOG = 1024
"""Connections that wait in the kernel."""
_PAUSE_SECONDS = 0.1
"""Until it is tried again to accept, after that has failed."""
_FULL = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
Enter = Callable[[socket.socket, str, dict[str, Any]], None]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How many connections may be there that have proven nothing yet."""

    at_once: int = 256
    per_address: int = 64
    grace: float = 0.1
    """Seconds that each may have in any case."""
    seconds: float = 10.0
    """Seconds that each may have at most."""


class Gate:
    """Accepts at one listener.

    Args:
        listener: belongs to the caller, who closes it.
        secret, rank: as of `admit`.
        enter: is given a connection that is let in, and keeps it; in a thread of its own.
        turned_away: is told of the others.
        name: of the threads.
    """

    def __init__(
        self,
        listener: socket.socket,
        secret: bytes,
        rank: int,
        enter: Enter,
        turned_away: TurnedAway,
        limits: Limits = Limits(),
        name: str = "manyhands-gate",
    ) -> None:
        self._listener, self._secret, self._rank = listener, secret, rank
        self._enter, self._turned_away, self._limits, self._name = enter, turned_away, limits, name
        self._changed = threading.Condition()
        self._within: dict[socket.socket, tuple[str, float]] = {}
        """Those who have proven nothing yet, oldest first: from where, and since when."""
        self._closed = threading.Event()
        listener.setblocking(False)

    def serve(self) -> None:
        """Let peers in until the gate is closed."""
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        while not self._closed.is_set():
            if not poll.poll(max(1.0, self._turned_away.look()) * 1e3):
                continue
            accepted = self._accept()
            if accepted is not None:
                self._receive(*accepted)

    def close(self) -> None:
        """Stop serving, and close all who have proven nothing yet."""
        with self._changed:
            self._closed.set()
            for sock in (self._listener, *self._within):  # wakes the threads, which close what they hold
                _shut(sock)
            self._changed.notify_all()
        self._turned_away.close()

    def _accept(self) -> tuple[socket.socket, str] | None:
        try:
            sock, address = self._listener.accept()
        except BlockingIOError:
            return None
        except OSError as error:  # it was broken before it was taken, the network went down, or descriptors ran out
            if error.errno in _FULL:
                with self._changed:
                    oldest = next(iter(self._within), None)
                    if oldest is not None:
                        _shut(oldest)
            self._closed.wait(_PAUSE_SECONDS)
            return None
        sock.setblocking(True)
        return sock, str(address[0]) if isinstance(address, tuple) else "this host"

    def _receive(self, sock: socket.socket, host: str) -> None:
        """Have a connection prove itself, as soon as there is room for it."""
        with self._changed:
            self._make_room(host)
            if self._closed.is_set():
                sock.close()
                return
            self._within[sock] = host, time.monotonic()
        try:
            threading.Thread(target=self._admit, args=(sock, host), daemon=True, name=self._name).start()
        except RuntimeError as error:  # no thread can be started now
            self._leave(sock)
            sock.close()
            self._turned_away.tell(host, error)
            self._closed.wait(_PAUSE_SECONDS)

    def _make_room(self, host: str) -> None:
        while (crowd := self._crowd(host)) and not self._closed.is_set():
            left = self._within[crowd[0]][1] + self._limits.grace - time.monotonic()
            if left <= 0:
                _shut(crowd[0])  # its thread notices, and closes it
            self._changed.wait(max(0.01, left))

    def _crowd(self, host: str) -> list[socket.socket]:
        """Those of whom one has to go before somebody from this host may come, oldest first."""
        counts = Counter(address for address, _ in self._within.values())
        if counts[host] < self._limits.per_address:
            if len(self._within) < self._limits.at_once:
                return []
            host = max(counts, key=lambda address: counts[address])
        return [sock for sock, (address, _) in self._within.items() if address == host]

    def _admit(self, sock: socket.socket, host: str) -> None:
        try:
            purpose = admit(sock, self._secret, self._rank, time.monotonic() + self._limits.seconds)
            sock.settimeout(None)
        except (StrangerError, OSError) as error:
            self._leave(sock)
            sock.close()
            if not self._closed.is_set():
                self._turned_away.tell(host, error)
            return
        self._leave(sock)
        self._enter(sock, host, purpose)

    def _leave(self, sock: socket.socket) -> None:
        with self._changed:
            self._within.pop(sock, None)
            self._changed.notify_all()


def _shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
