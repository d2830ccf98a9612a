"""What joins two ranks: a link, of connections for one purpose each."""

from __future__ import annotations

import os
import socket
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field

from manyhands.transport.errors import PeerLostError

MEMORY = "memory"
"""The rail of ranks on the same host."""


@dataclass(eq=False)
class Link:
    """Connections to one peer: `control` for what is said about operations, `messages` for single tensors, and
    one for data per rail."""

    peer: int
    control: socket.socket
    messages: socket.socket
    data: dict[str, socket.socket] = field(default_factory=dict)
    interfaces: dict[str, str] = field(default_factory=dict)
    """This host's interface of each rail."""

    def __post_init__(self) -> None:
        _links.add(self)

    @property
    def local(self) -> bool:
        return MEMORY in self.data

    @property
    def streams(self) -> list[socket.socket]:
        """The connections over TCP but for `control`."""
        return [sock for sock in (self.messages, *self.data.values()) if sock.family == socket.AF_INET]

    def set_timeout(self, seconds: float) -> None:
        for sock in (self.control, self.messages, *self.data.values()):
            sock.settimeout(seconds)

    def close(self) -> None:
        for sock in (self.control, self.messages, *self.data.values()):
            sock.close()


_links: weakref.WeakSet[Link] = weakref.WeakSet()


def _close_all() -> None:
    for link in _links:
        link.close()


# A forked child (of a data loader, say) that held connections would keep peers from noticing that this process died.
os.register_at_fork(after_in_child=_close_all)


def links_over(rank: int, sockets: Sequence[socket.socket | None]) -> list[Link | None]:
    """Links to ranks of the same host that are joined by a Unix socket each already: no store, nothing to prove.

    Raises:
        PeerLostError: a peer is gone.
    """
    links: list[Link | None] = [None] * len(sockets)
    for peer, sock in enumerate(sockets):
        if sock is not None and rank < peer:
            mine, theirs = zip(socket.socketpair(), socket.socketpair(), strict=True)
            try:
                socket.send_fds(sock, [b"l"], [s.fileno() for s in theirs])
            except OSError:
                raise PeerLostError(peer, "joining the group") from None
            for s in theirs:
                s.close()
            links[peer] = Link(peer, sock, mine[0], {MEMORY: mine[1]})
    for peer, sock in enumerate(sockets):
        if sock is not None and rank > peer:
            try:
                tag, descriptors, _, _ = socket.recv_fds(sock, 1, 2)
            except OSError:
                tag, descriptors = b"", []
            for descriptor in descriptors:
                os.set_inheritable(descriptor, False)
            if not tag or len(descriptors) != 2:
                raise PeerLostError(peer, "joining the group")
            messages, data = (socket.socket(fileno=descriptor) for descriptor in descriptors)
            links[peer] = Link(peer, sock, messages, {MEMORY: data})
    return links
