"""Where a rank lets its peers in, and turns strangers away, while the ranks of a group connect."""

from __future__ import annotations

import logging
import queue
import socket
import threading
import time
from typing import Any

from manyhands.transport.errors import WaitedTooLongError
from manyhands.wire import StrangerError, admit, hold, watch

_log = logging.getLogger("manyhands")
_HANDSHAKE_SECONDS = 10.0
_AT_ONCE = 256
"""Handshakes under way at the same time; more wait in the kernel."""


class Door:
    """Accepts connections of peers, who prove that they know the secret and mean this rank."""

    def __init__(self, listeners: list[socket.socket], rank: int, secret: bytes, deadline: float) -> None:
        self._listeners, self._rank, self._secret, self._deadline = listeners, rank, secret, deadline
        self._arrived: queue.SimpleQueue[tuple[dict[str, Any], socket.socket]] = queue.SimpleQueue()
        self._room = threading.BoundedSemaphore(_AT_ONCE)
        self._lock = threading.Lock()
        self._within: set[socket.socket] = set()
        self._open = True
        self._threads = [
            threading.Thread(target=self._accept, args=(listener,), daemon=True, name="manyhands-door")
            for listener in listeners
        ]

    def __enter__(self) -> Door:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._open = False
            for sock in (*self._listeners, *self._within):  # wakes the threads, which close what they hold
                try:
                    sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
        for thread in self._threads:
            thread.join(1.0)
        while not self._arrived.empty():
            self._arrived.get()[1].close()

    def receive(self, peers: range) -> dict[int, dict[str, Any]]:
        """Wait for all connections of these ranks: for each `control`, `messages` and, by rail, `data`.

        Raises:
            WaitedTooLongError: names those who did not come.
        """
        parts: dict[int, dict[str, Any]] = {peer: {"data": {}} for peer in peers}
        try:
            while missing := [peer for peer, part in parts.items() if not _complete(part)]:
                left = self._deadline - time.monotonic()
                try:
                    purpose, sock = self._arrived.get(timeout=max(0.0, left))
                except queue.Empty:
                    who = ", ".join(map(str, missing))
                    raise WaitedTooLongError(f"rank {self._rank} waited for rank(s) {who} to connect") from None
                _put(parts.get(purpose["rank"]), purpose, sock)
        except BaseException:
            for part in parts.values():
                for sock in (part.get("control"), part.get("messages"), *part["data"].values()):
                    if sock is not None:
                        sock.close()
            raise
        for part in parts.values():
            for rail in set(part["data"]) - set(part["ways"]):  # the peer gave it up
                part["data"].pop(rail).close()
        return parts

    def _accept(self, listener: socket.socket) -> None:
        while self._open:
            try:
                sock, address = listener.accept()
            except OSError:
                return
            self._room.acquire()
            with self._lock:
                if not self._open:
                    sock.close()
                    return
                self._within.add(sock)
            threading.Thread(target=self._admit, args=(sock, address), daemon=True, name="manyhands-door").start()

    def _admit(self, sock: socket.socket, address: object) -> None:
        try:
            purpose = admit(sock, self._secret, self._rank, time.monotonic() + _HANDSHAKE_SECONDS)
            (watch if purpose["kind"] == "control" else hold)(sock)
        except (StrangerError, OSError, ValueError, KeyError) as error:
            if self._open:
                _log.warning("turned away a connection from %s: %s", address or "this host", error)
            purpose = None
        with self._lock:
            self._within.discard(sock)
            if purpose is None or not self._open:
                sock.close()
            else:
                self._arrived.put((purpose, sock))
        self._room.release()


def _complete(part: dict[str, Any]) -> bool:
    return "messages" in part and "ways" in part and set(part["ways"]) <= set(part["data"])


def _put(part: dict[str, Any] | None, purpose: dict[str, Any], sock: socket.socket) -> None:
    if part is None:
        sock.close()
    elif purpose["kind"] == "data":
        part["data"][purpose["rail"]] = sock
    else:
        part[purpose["kind"]] = sock
        if purpose["kind"] == "control":
            part["ways"] = purpose["ways"]
