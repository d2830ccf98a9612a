"""Where a rank lets its peers in, and turns strangers away, while the ranks of a group connect."""

from __future__ import annotations

import logging
import queue
import socket
import threading
import time
from typing import Any

from manyhands.transport.errors import WaitedTooLongError
from manyhands.wire import Gate, Limits, TurnedAway, hold, watch

_log = logging.getLogger("manyhands")
_LIMITS = Limits(at_once=256, per_address=192, grace=1.0)
"""Many ranks of a host come at the same time, and while all are busy."""


class Door:
    """Accepts connections of peers, who prove that they know the secret and mean this rank."""

    def __init__(self, listeners: list[socket.socket], rank: int, secret: bytes, deadline: float) -> None:
        self._rank, self._deadline = rank, deadline
        self._arrived: queue.SimpleQueue[tuple[dict[str, Any], socket.socket]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._open = True
        self._turned_away = TurnedAway(_log.warning)
        self._gates = [
            Gate(listener, secret, rank, self._enter, self._turned_away, _LIMITS, "manyhands-door")
            for listener in listeners
        ]
        self._threads = [
            threading.Thread(target=gate.serve, daemon=True, name="manyhands-door") for gate in self._gates
        ]

    def __enter__(self) -> Door:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._open = False
        for gate in self._gates:
            gate.close()
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

    def _enter(self, sock: socket.socket, host: str, purpose: dict[str, Any]) -> None:
        if not _means_something(purpose):
            sock.close()
            self._turned_away.tell(host, "it knows the secret, but does not say what it comes for")
            return
        try:
            (watch if purpose["kind"] == "control" else hold)(sock)
        except OSError as error:
            sock.close()
            self._turned_away.tell(host, error)
            return
        with self._lock:
            if self._open:
                self._arrived.put((purpose, sock))
            else:
                sock.close()


def _means_something(purpose: dict[str, Any]) -> bool:
    ways = purpose.get("ways")
    return (
        type(purpose.get("rank")) is int
        and purpose.get("kind") in ("control", "messages", "data")
        and type(purpose.get("rail")) is str
        and isinstance(ways, list)
        and all(type(way) is str for way in ways)
    )


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
