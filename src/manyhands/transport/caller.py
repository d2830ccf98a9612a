"""How a rank connects to another whose card it has: through memory if they share a host, else over every rail, else as
the routing tables say."""

from __future__ import annotations

import socket
import time
from typing import Any

from manyhands.transport.errors import GroupError
from manyhands.transport.interfaces import Interface, rails
from manyhands.transport.link import MEMORY, Link
from manyhands.wire import StrangerError, hold, introduce, watch

_HANDSHAKE_SECONDS = 5.0
"""Seconds for a handshake on a way that may lead to somebody else."""
_TRY_SECONDS = 2.0
"""A rail that cannot be connected in this time is left out."""


class Caller:
    """Connects to a lower rank in every way that there is.

    Args:
        card: where the peer's door is (rendezvous.py).
        own: this host's interfaces.
        secret: the group's.
        deadline: for all of it, by the monotonic clock.
    """

    def __init__(
        self, rank: int, peer: int, card: dict[str, Any], own: list[Interface], secret: bytes, deadline: float
    ) -> None:
        self.rank, self.peer, self.card, self.own = rank, peer, card, own
        self.secret, self.deadline = secret, deadline
        self.opened: list[socket.socket] = []
        self.late = False
        """Whether a connection was not refused, but not answered either."""

    def call(self) -> Link:
        """Connect to the peer and return the link.

        Raises:
            GroupError: there is no way.
        """
        try:
            link = self._through_memory()
            if link is None and not self.card["port"]:
                raise ConnectionRefusedError("its door is closed, and it has none for other hosts")
            link = link or self._through_rails() or self._as_routed()
        except (OSError, StrangerError) as error:
            for sock in self.opened:
                sock.close()
            raise GroupError(f"rank {self.rank} lost rank {self.peer} while connecting to it: {error}") from None
        if link is None:
            raise GroupError(
                f"rank {self.rank} cannot reach rank {self.peer} at any of its addresses: {self._addresses()}. Check "
                "that no firewall is between the hosts."
            )
        return link

    def _through_memory(self) -> Link | None:
        if (sock := _unix(self.card["unix"])) is None:
            return None
        sockets = [sock, *(_unix(self.card["unix"]) for _ in range(2))]
        self.opened = [sock for sock in sockets if sock is not None]
        if len(self.opened) < len(sockets):
            raise ConnectionResetError("it closed its door")
        return self._joined({MEMORY: self.opened[0]}, {}, self.opened[1:])

    def _through_rails(self) -> Link | None:
        theirs = [Interface(*row) for row in self.card["interfaces"]]
        data: dict[str, socket.socket] = {}
        names: dict[str, str] = {}
        for mine, other in rails(self.own, theirs):
            if mine.network not in data and (sock := self._dial(other.address, mine, mine.network)) is not None:
                data[mine.network], names[mine.network] = sock, mine.name
        if not data:
            return None
        first = next(mine for mine in self.own if mine.network in data and mine.name == names[mine.network])
        return self._over_tcp(data, names, first)

    def _as_routed(self) -> Link | None:
        while True:
            self.late = False
            for address in self._addresses():
                if (sock := self._dial(address, None, "")) is not None:
                    return self._over_tcp({"": sock}, {}, None)
            if not self.late or time.monotonic() > self.deadline:
                return None

    def _addresses(self) -> list[str]:
        return [address for _, address, _ in self.card["interfaces"]] + ["127.0.0.1"]

    def _dial(self, address: str, interface: Interface | None, rail: str) -> socket.socket | None:
        """A connection for data, introduced; None if the peer is not to be reached this way."""
        seconds = min(_TRY_SECONDS, max(0.1, self.deadline - time.monotonic()))
        sock = None
        try:
            sock = _tcp(address, self.card["port"], interface, seconds)
            self._introduce(sock, "data", rail, [], min(self.deadline, time.monotonic() + _HANDSHAKE_SECONDS))
            self.opened.append(sock)
            return sock
        except (OSError, StrangerError) as error:
            self.late |= isinstance(error, TimeoutError)
            if sock is not None:
                sock.close()
            return None

    def _over_tcp(self, data: dict[str, socket.socket], names: dict[str, str], interface: Interface | None) -> Link:
        """Control and messages go the first rail's way."""
        address = data[interface.network if interface else ""].getpeername()[0]
        others = []
        for _ in range(2):
            others.append(_tcp(address, self.card["port"], interface, max(_TRY_SECONDS, _HANDSHAKE_SECONDS)))
            self.opened.append(others[-1])
        return self._joined(data, names, others, introduced=True)

    def _joined(
        self,
        data: dict[str, socket.socket],
        names: dict[str, str],
        others: list[socket.socket],
        introduced: bool = False,
    ) -> Link:
        control, messages = others
        for rail, sock in data.items():
            if not introduced:
                self._introduce(sock, "data", rail, [], self.deadline)
        self._introduce(control, "control", "", list(data), self.deadline)
        self._introduce(messages, "messages", "", [], self.deadline)
        watch(control)
        return Link(self.peer, control, messages, data, names)

    def _introduce(self, sock: socket.socket, kind: str, rail: str, ways: list[str], deadline: float) -> None:
        purpose = {"rank": self.rank, "to": self.peer, "kind": kind, "rail": rail, "ways": ways}
        introduce(sock, self.secret, purpose, deadline)


def _unix(name: str) -> socket.socket | None:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect("\0" + name)
    except OSError:
        sock.close()
        return None
    return sock


def _tcp(address: str, port: int, interface: Interface | None, seconds: float) -> socket.socket:
    """
    Raises:
        OSError: it cannot be connected in this time.
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        if interface is not None:
            sock.bind((interface.address, 0))
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.name.encode())
            except PermissionError:
                pass  # the source address has to do
        sock.settimeout(seconds)
        sock.connect((address, port))
        hold(sock)
    except OSError:
        sock.close()
        raise
    return sock
