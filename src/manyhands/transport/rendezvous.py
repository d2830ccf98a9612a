"""How the ranks of a group find each other and connect.

Every rank publishes its addresses in a store; each connects to all lower ranks. Two ranks that can reach each other
through an abstract Unix socket are on the same host (it exists in one network namespace of one kernel), and prove it
by handing over shared memory (rings.py). Others connect over TCP, once per rail: each pair of interfaces in
a common subnet, bound to its interface; or, where there is none, as the routing tables say.
"""

from __future__ import annotations

import json
import logging
import queue
import secrets
import socket
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol

from manyhands.transport.errors import GroupError, WaitedTooLongError
from manyhands.transport.interfaces import Interface, interfaces, rails
from manyhands.transport.wire import StrangerError, admit, introduce

_log = logging.getLogger("manyhands")
_HANDSHAKE_SECONDS = 5.0
_TRY_SECONDS = 2.0
"""A rail that cannot be connected in this time is left out."""
MEMORY = "memory"
"""The rail of ranks on the same host."""


class Store(Protocol):
    """What ranks find each other through; torch's stores are such."""

    def set(self, key: str, value: Any, /) -> Any: ...

    def get(self, key: str, /) -> Any: ...


@dataclass
class Link:
    """Connections to one peer: `control` for what is said about operations, `messages` for single tensors, and
    one for data per rail."""

    peer: int
    control: socket.socket
    messages: socket.socket
    data: dict[str, socket.socket] = field(default_factory=dict)
    interfaces: dict[str, str] = field(default_factory=dict)
    """This host's interface of each rail."""

    @property
    def local(self) -> bool:
        return MEMORY in self.data

    def close(self) -> None:
        for sock in (self.control, self.messages, *self.data.values()):
            sock.close()


def connect(store: Store, rank: int, world: int, name: str, timeout: float) -> list[Link | None]:
    """Links to all ranks, None at this one's place.

    Raises:
        WaitedTooLongError: a rank did not come; names it.
        GroupError: two ranks have no way to each other.
    """
    deadline = time.monotonic() + timeout
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
        secret = bytes.fromhex(_text(store.get(f"{name}/secret")))
        door = stack.enter_context(_Door([tcp, unix], secret, deadline))
        links: list[Link | None] = [None] * world
        for peer in range(rank):
            card = json.loads(_text(store.get(f"{name}/{peer}")))
            links[peer] = _call(rank, peer, card, own, secret, deadline)
        door.receive(range(rank + 1, world), links, rank)
        return links


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _call(rank: int, peer: int, card: dict[str, Any], own: list[Interface], secret: bytes, deadline: float) -> Link:
    """Connect to a lower rank in every way that there is."""

    def introduced(sock: socket.socket, kind: str, ways: list[str], rail: str = "") -> socket.socket:
        sock.settimeout(_HANDSHAKE_SECONDS)
        purpose = {"rank": rank, "kind": kind, "rail": rail, "ways": ways}
        try:
            introduce(sock, secret, purpose)
        except StrangerError as error:
            raise GroupError(f"rank {rank} cannot join: at rank {peer}'s address, {error}") from None
        return sock

    if (sock := _unix(card["unix"])) is not None:
        first, second = _unix(card["unix"]), _unix(card["unix"])
        assert first is not None and second is not None
        control = introduced(sock, "control", [MEMORY])
        return Link(peer, control, introduced(first, "messages", []), {MEMORY: introduced(second, "data", [], MEMORY)})
    theirs = [Interface(*row) for row in card["interfaces"]]
    ways: dict[str, tuple[socket.socket, str]] = {}
    for mine, other in rails(own, theirs):
        rail = mine.network
        if (sock := _tcp(other.address, card["port"], mine)) is not None:
            ways.setdefault(rail, (sock, mine.name))
    addresses = [i.address for i in theirs] + ["127.0.0.1"]
    if not ways:
        while not ways:
            for address in addresses:
                if (sock := _tcp(address, card["port"], None)) is not None:
                    ways[""] = (sock, "")
                    break
            else:
                if time.monotonic() > deadline:
                    raise GroupError(f"rank {rank} cannot reach rank {peer} at any of its addresses: {addresses}")
    sibling = next(iter(ways.values()))[0].getpeername()[0]
    mine = next((i for i in own if i.network == next(iter(ways))), None)
    others = [_tcp(sibling, card["port"], mine) for _ in range(2)]
    if None in others:
        raise GroupError(f"rank {rank} lost its way to rank {peer} at {sibling} while connecting")
    control = introduced(others[0], "control", list(ways))  # type: ignore[arg-type]
    messages = introduced(others[1], "messages", [])  # type: ignore[arg-type]
    data = {rail: introduced(sock, "data", [], rail) for rail, (sock, _) in ways.items()}
    return Link(peer, control, messages, data, {rail: name for rail, (_, name) in ways.items()})


def _unix(name: str) -> socket.socket | None:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect("\0" + name)
    except OSError:
        sock.close()
        return None
    return sock


def _tcp(address: str, port: int, interface: Interface | None) -> socket.socket | None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        if interface is not None:
            sock.bind((interface.address, 0))
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.name.encode())
            except PermissionError:
                pass  # the source address has to do
        sock.settimeout(_TRY_SECONDS)
        sock.connect((address, port))
    except OSError:
        sock.close()
        return None
    watchful(sock)
    return sock


def watchful(sock: socket.socket) -> None:
    """Have the kernel notice within two seconds that the other end cannot be reached any more."""
    for option, value in (
        (socket.TCP_NODELAY, 1),
        (socket.TCP_KEEPIDLE, 1),
        (socket.TCP_KEEPINTVL, 1),
        (socket.TCP_KEEPCNT, 1),
        (socket.TCP_USER_TIMEOUT, 1500),
    ):
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


class _Door:
    """Accepts connections, lets peers in and turns strangers away."""

    def __init__(self, listeners: list[socket.socket], secret: bytes, deadline: float) -> None:
        self._listeners, self._secret, self._deadline = listeners, secret, deadline
        self._arrived: queue.SimpleQueue[tuple[dict[str, Any], socket.socket]] = queue.SimpleQueue()
        self._open = True

    def __enter__(self) -> _Door:
        for listener in self._listeners:
            listener.settimeout(0.5)
            threading.Thread(target=self._accept, args=(listener,), daemon=True, name="manyhands-door").start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._open = False

    def receive(self, peers: range, links: list[Link | None], rank: int) -> None:
        """Wait for all connections of these ranks."""
        parts: dict[int, dict[str, Any]] = {peer: {"data": {}} for peer in peers}

        def missing() -> list[int]:
            return [p for p, part in parts.items() if "messages" not in part or not part.get("ways") or _lacks(part)]

        def _lacks(part: dict[str, Any]) -> bool:
            return set(part["ways"]) != set(part["data"])

        while missing():
            left = self._deadline - time.monotonic()
            try:
                purpose, sock = self._arrived.get(timeout=max(0.0, left))
            except queue.Empty:
                raise WaitedTooLongError(f"rank {rank} waited for rank(s) {missing()} to connect") from None
            part = parts[purpose["rank"]]
            if purpose["kind"] == "data":
                part["data"][purpose["rail"]] = sock
            else:
                part[purpose["kind"]] = sock
                part.setdefault("ways", purpose["ways"]) if purpose["ways"] else None
        names = {i.address: i.name for i in interfaces()}
        for peer, part in parts.items():
            on = (
                {}
                if MEMORY in part["data"]
                else {r: names.get(s.getsockname()[0], "") for r, s in part["data"].items()}
            )
            links[peer] = Link(peer, part["control"], part["messages"], part["data"], on)

    def _accept(self, listener: socket.socket) -> None:
        while self._open:
            try:
                sock, address = listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            threading.Thread(target=self._admit, args=(sock, address), daemon=True, name="manyhands-door").start()

    def _admit(self, sock: socket.socket, address: object) -> None:
        sock.settimeout(_HANDSHAKE_SECONDS)
        try:
            purpose = admit(sock, self._secret)
            if sock.family == socket.AF_INET:
                watchful(sock)
        except (StrangerError, OSError, ValueError) as error:
            _log.warning("turned away a connection from %s: %s", address or "this host", error)
            sock.close()
            return
        self._arrived.put((purpose, sock))
