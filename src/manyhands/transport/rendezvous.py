"""How the ranks of a group find each other and connect.

Every rank publishes its addresses in a store; each connects to all lower ranks. Two ranks that can reach each other
through an abstract Unix socket are on the same host (it exists in one network namespace of one kernel), and prove it
by handing over shared memory (rings.py). Others connect over TCP, once per rail: each pair of interfaces in
a common subnet, bound to its interface; or, where there is none, as the routing tables say.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
import weakref
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol

from manyhands.transport.door import Door
from manyhands.transport.errors import GroupError, PeerLostError
from manyhands.transport.interfaces import Interface, interfaces, rails
from manyhands.wire import StrangerError, hold, introduce, watch

_HANDSHAKE_SECONDS = 5.0
"""On a way that may lead to somebody else."""
_TRY_SECONDS = 2.0
"""A rail that cannot be connected in this time is left out."""
MEMORY = "memory"
"""The rail of ranks on the same host."""


class Store(Protocol):
    """What ranks find each other through; torch's stores are such."""

    def set(self, key: str, value: Any, /) -> Any: ...

    def get(self, key: str, /) -> Any: ...


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


def connect(store: Store, rank: int, world: int, name: str, timeout: float) -> list[Link | None]:
    """Links to all ranks, None at this one's place.

    Raises:
        WaitedTooLongError: a rank did not come; names it.
        GroupError: two ranks have no way to each other.
    """
    deadline = time.monotonic() + timeout
    links: list[Link | None] = [None] * world
    try:
        with ExitStack() as stack:
            tcp = stack.enter_context(socket.create_server(("", 0), backlog=1024))
            unix = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            unix_name = f"manyhands-{secrets.token_hex(16)}"
            unix.bind("\0" + unix_name)
            unix.listen(1024)
            if rank == 0:
                store.set(f"{name}/secret", secrets.token_hex(32))
            own = interfaces()
            card = {"port": tcp.getsockname()[1], "unix": unix_name, "interfaces": [list(i) for i in own]}
            store.set(f"{name}/{rank}", json.dumps(card))
            secret = bytes.fromhex(as_text(store.get(f"{name}/secret")))
            door = stack.enter_context(Door([tcp, unix], rank, secret, deadline))
            for peer in range(rank):
                card = json.loads(as_text(store.get(f"{name}/{peer}")))
                links[peer] = _Caller(rank, peer, card, own, secret, deadline).call()
            for peer, part in door.receive(range(rank + 1, world)).items():
                links[peer] = _link(peer, part, own)
    except BaseException:
        for link in filter(None, links):
            link.close()
        raise
    for link in filter(None, links):
        link.set_timeout(timeout)  # until they are put to use
    return links


def as_text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _link(peer: int, part: dict[str, Any], own: list[Interface]) -> Link:
    """What the door received."""
    names = {interface.address: interface.name for interface in own}
    rails = {rail: names.get(sock.getsockname()[0], "") for rail, sock in part["data"].items() if rail != MEMORY}
    return Link(peer, part["control"], part["messages"], part["data"], rails)


class _Caller:
    """Connects to a lower rank in every way that there is."""

    def __init__(
        self, rank: int, peer: int, card: dict[str, Any], own: list[Interface], secret: bytes, deadline: float
    ) -> None:
        self.rank, self.peer, self.card, self.own = rank, peer, card, own
        self.secret, self.deadline = secret, deadline
        self.opened: list[socket.socket] = []
        self.late = False
        """Whether a connection was not refused, but not answered either."""

    def call(self) -> Link:
        """The link.

        Raises:
            GroupError: there is no way.
        """
        try:
            link = self._through_memory() or self._through_rails() or self._as_routed()
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
