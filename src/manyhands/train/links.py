"""Connections to other processes that the supervisor hands over while a worker is at work."""

from __future__ import annotations

import socket
import time
from typing import NamedTuple

from manyhands.engine import Channel, Message
from manyhands.errors import UserError
from manyhands.transport import Group, links_over


class Link(NamedTuple):
    """One end of a connection."""

    role: str
    """What the other process is: `worker` or `server`."""
    number: int
    """Which."""
    fresh: bool
    """Whether it has taken the place of one that was lost."""
    first: bool
    """Whether this process has rank 0 of the two."""
    sock: socket.socket

    def group(self) -> Group:
        """A group of the two processes."""
        sockets = [None, self.sock] if self.first else [self.sock, None]
        rank = 0 if self.first else 1
        return Group(rank, links_over(rank, sockets), name=f"the link to {self.role} {self.number}")


class Links:
    """Keeps links until somebody wants them; the newest of each."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._waiting: dict[tuple[str, int], Link] = {}

    def add(self, order: Message, descriptors: list[int]) -> None:
        """A `link` order has come."""
        link = Link(
            order["role"], order["number"], order["fresh"], order["first"], socket.socket(fileno=descriptors[0])
        )
        former = self._waiting.pop((link.role, link.number), None)
        if former is not None:
            former.sock.close()
        self._waiting[link.role, link.number] = link

    def take_all(self) -> list[Link]:
        """Those that have come."""
        links, self._waiting = list(self._waiting.values()), {}
        return links

    def wait(self, role: str, number: int, seconds: float) -> Link:
        """The link to this process.

        Raises:
            UserError: it did not come in time.
            SystemExit: the supervisor wants this process to end, or is gone.
        """
        deadline = time.monotonic() + seconds
        while (role, number) not in self._waiting:
            if not self._channel.wait(max(0.0, deadline - time.monotonic())):
                raise UserError(f"{role} {number} was lost, and for {seconds:.0f} s nobody has taken its place.")
            received = self._channel.receive()
            if received is None or received[0]["order"] == "exit":
                raise SystemExit(received is None)
            if received[0]["order"] == "link":
                self.add(*received)
        return self._waiting.pop((role, number))
