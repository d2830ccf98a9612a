"""Connections to other processes that the supervisor hands over: descriptors on one host, a meeting between hosts."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from manyhands.cluster import Cluster
from manyhands.engine import Channel, Message
from manyhands.engine.hosts import DepotStore, DistantSlots
from manyhands.errors import UserError
from manyhands.transport import Group, GroupError, PeerLostError, links_over

_MEETING_SECONDS = 30.0
"""How long a member of a gang that is being formed waits for the others: one may be lost meanwhile."""


@dataclass(frozen=True)
class Home:
    """Where processes of different hosts meet, and leave state: the depot of the supervisor."""

    host: str
    port: int
    token: str

    def store(self) -> DepotStore:
        return DepotStore((self.host, self.port), self.token.encode())

    def slots(self) -> DistantSlots:
        return DistantSlots((self.host, self.port), self.token.encode())


def join_group(
    order: Message,
    descriptors: list[int],
    rank: int,
    name: str,
    home: Home | None,
    cluster: Callable[[int], Cluster] | None = None,
) -> Group | None:
    """The group of all who got such an order; None for one alone.

    Args:
        order: with the `meeting` of processes on several hosts; others get connections to all others with it.
        cluster: what to assume of the links between so many hosts, instead of measuring them.

    Raises:
        PeerLostError: one of them is gone.
    """
    if "meeting" not in order:
        links: list[socket.socket | None] = [socket.socket(fileno=descriptor) for descriptor in descriptors]
        links.insert(rank, None)
        try:
            return Group(rank, links_over(rank, links), name=name) if descriptors else None
        except PeerLostError:
            for link in links:
                if link is not None:
                    link.close()
            raise
    assert home is not None
    with contextlib.closing(home.store()) as store:
        try:
            meeting = f"{order['meeting']}/{name}"
            known = cluster(order["world"]) if cluster is not None else None
            return Group.connect(store, rank, order["world"], name=meeting, patience=_MEETING_SECONDS, cluster=known)
        except PeerLostError:
            raise
        except (TimeoutError, GroupError) as error:
            raise PeerLostError(-1, f"joining {name}", f"did not come ({error})") from None


@dataclass(frozen=True)
class Link:
    """One end of a connection between two."""

    order: Message
    """`role` and `number` say what the other process is, `fresh` whether it has taken the place of one that was lost,
    and `first` whether this process has rank 0 of the two."""
    descriptors: list[int]
    home: Home | None

    @property
    def role(self) -> str:
        """What the other process is: `worker` or `server`."""
        return self.order["role"]

    @property
    def number(self) -> int:
        """Which."""
        return self.order["number"]

    @property
    def fresh(self) -> bool:
        return self.order["fresh"]

    @property
    def far(self) -> bool:
        """Whether the other process is on another host."""
        return "meeting" in self.order

    def group(self) -> Group:
        """A group of the two processes.

        Raises:
            PeerLostError: the other one is gone.
        """
        rank = 0 if self.order["first"] else 1
        group = join_group(self.order, self.descriptors, rank, "link", self.home)
        assert group is not None
        return group

    def close(self) -> None:
        """Let it go unused."""
        for descriptor in self.descriptors:
            os.close(descriptor)


class Links:
    """Keeps links until somebody wants them; the newest of each."""

    def __init__(self, channel: Channel, home: Home | None) -> None:
        self._channel, self._home = channel, home
        self._waiting: dict[tuple[str, int], Link] = {}

    def add(self, order: Message, descriptors: list[int]) -> None:
        """A `link` order has come."""
        link = Link(order, descriptors, self._home)
        former = self._waiting.pop((link.role, link.number), None)
        if former is not None:
            former.close()
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
