"""Connections to other processes that the supervisor hands over: descriptors on one host, a meeting between hosts."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass

from manyhands.cluster import Cluster
from manyhands.engine import Depot, Linking
from manyhands.engine.hosts import DepotLostError, DepotStore, DistantSlots
from manyhands.gang import orders
from manyhands.transport import Group, GroupError, PeerLostError, links_over

_MEETING_SECONDS = 30.0
"""How long a member of a gang that is being formed waits for the others: one may be lost meanwhile."""


def slots_at(depot: Depot | None) -> DistantSlots:
    """The buffers for snapshots of the supervisor's machine, for a process on another one."""
    assert depot is not None
    return DistantSlots((depot.host, depot.port), depot.token.encode())


def join_group(
    order: Linking,
    descriptors: list[int],
    rank: int,
    name: str,
    depot: Depot | None,
    cluster: Callable[[int], Cluster] | None = None,
) -> Group | None:
    """The group of all who got such an order; None for one alone.

    Args:
        order: with the `meeting` of processes on several hosts; others get connections to all others with it, as
            descriptors.
        depot: where processes of several hosts meet.
        cluster: what to assume of the links between so many hosts, instead of measuring them.

    Raises:
        PeerLostError: one of them is gone.
    """
    if order.meeting is None:
        links: list[socket.socket | None] = [socket.socket(fileno=descriptor) for descriptor in descriptors]
        links.insert(rank, None)
        try:
            return Group(rank, links_over(rank, links), name=name) if descriptors else None
        except PeerLostError:
            for link in links:
                if link is not None:
                    link.close()
            raise
    assert depot is not None
    try:
        with contextlib.closing(DepotStore((depot.host, depot.port), depot.token.encode())) as store:
            meeting, world = f"{order.meeting.name}/{name}", order.meeting.world
            known = cluster(world) if cluster is not None else None
            return Group.connect(store, rank, world, name=meeting, patience=_MEETING_SECONDS, cluster=known)
    except PeerLostError:
        raise
    except (TimeoutError, GroupError, DepotLostError) as error:
        raise PeerLostError(-1, f"joining {name}", f"did not come ({error})") from None


@dataclass(frozen=True)
class Link:
    """One end of a connection between two processes."""

    order: orders.Link
    descriptors: list[int]
    depot: Depot | None

    @property
    def role(self) -> orders.Role:
        """What the other process is."""
        return self.order.role

    @property
    def number(self) -> int:
        """The number of the other process, among those in its role."""
        return self.order.number

    @property
    def fresh(self) -> bool:
        """Whether the other process has taken the place of one that was lost."""
        return self.order.fresh

    @property
    def far(self) -> bool:
        """Whether the other process is on another host."""
        return self.order.meeting is not None

    def group(self) -> Group:
        """A group of the two processes.

        Raises:
            PeerLostError: the other one is gone.
        """
        rank = 0 if self.order.first else 1
        group = join_group(self.order, self.descriptors, rank, "link", self.depot)
        assert group is not None
        return group

    def close(self) -> None:
        """Let the link go unused."""
        for descriptor in self.descriptors:
            os.close(descriptor)


class Links:
    """Keeps links until somebody wants them; the newest of each."""

    def __init__(self, depot: Depot | None) -> None:
        self._depot = depot
        self._waiting: dict[tuple[orders.Role, int], Link] = {}

    def add(self, order: orders.Link, descriptors: list[int]) -> None:
        """Keep a link that has come."""
        link = Link(order, descriptors, self._depot)
        former = self._waiting.pop((link.role, link.number), None)
        if former is not None:
            former.close()
        self._waiting[link.role, link.number] = link

    def take_all(self) -> list[Link]:
        """The links that have come; they are kept no longer."""
        links, self._waiting = list(self._waiting.values()), {}
        return links

    def take(self, role: orders.Role, number: int) -> Link | None:
        """The link to this process, if it has come."""
        return self._waiting.pop((role, number), None)
