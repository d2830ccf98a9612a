"""How the ranks of a group find each other and connect.

Every rank opens a door and tells the others where it is, on a card: through a store, or through a group that joins them
already. Each connects to all lower ranks (caller.py). Two ranks that can reach each other through an abstract Unix
socket are on the same host (it exists in one network namespace of one kernel), and prove it by handing over shared
memory (rings.py). Others connect over TCP, once per rail: each pair of interfaces in a common subnet, bound to its
interface; or, where there is none, as the routing tables say.

Doors are open only while the ranks connect, and let in only who knows the group's secret (door.py). The secret is as
safe as the way it takes: whoever can read the store, or the wires, can learn it.
"""

from __future__ import annotations

import json
import secrets
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Protocol

from manyhands.transport.caller import Caller
from manyhands.transport.door import Door
from manyhands.transport.interfaces import Interface, interfaces
from manyhands.transport.link import MEMORY, Link

Card = dict[str, Any]
"""Where a rank's door is: `port` (0 if there is none for other hosts), `unix`, and the host's `interfaces`."""
Meet = Callable[[Card], tuple[bytes, Callable[[int], Card]]]
"""Tells the others this rank's card; returns the group's secret, and what gives a rank's card."""


class Store(Protocol):
    """What ranks find each other through; torch's stores are such."""

    def set(self, key: str, value: Any, /) -> Any: ...

    def get(self, key: str, /) -> Any: ...


def connect(store: Store, rank: int, world: int, name: str, timeout: float) -> list[Link | None]:
    """Links to all ranks, who meet through a store; None at this one's place.

    Raises:
        WaitedTooLongError: a rank did not come; names it.
        GroupError: two ranks have no way to each other.
    """

    def meet(card: Card) -> tuple[bytes, Callable[[int], Card]]:
        if rank == 0:
            store.set(f"{name}/secret", new_secret())
        store.set(f"{name}/{rank}", json.dumps(card))
        secret = bytes.fromhex(as_text(store.get(f"{name}/secret")))
        return secret, lambda peer: json.loads(as_text(store.get(f"{name}/{peer}")))

    return join(meet, rank, world, timeout)


def join(meet: Meet, rank: int, world: int, timeout: float, *, alone: bool = False) -> list[Link | None]:
    """Links to all ranks, however they meet; None at this one's place.

    Args:
        alone: all ranks are on this host, so that nothing has to listen to others.

    Raises:
        WaitedTooLongError, GroupError: as `connect`.
    """
    deadline = time.monotonic() + timeout
    links: list[Link | None] = [None] * world
    try:
        with ExitStack() as stack:
            listeners, card = _doors(stack, alone)
            secret, card_of = meet(card)
            door = stack.enter_context(Door(listeners, rank, secret, deadline))
            own = [Interface(*row) for row in card["interfaces"]]
            for peer in range(rank):
                links[peer] = Caller(rank, peer, card_of(peer), own, secret, deadline).call()
            for peer, part in door.receive(range(rank + 1, world)).items():
                links[peer] = _link(peer, part, own)
    except BaseException:
        for link in filter(None, links):
            link.close()
        raise
    for link in filter(None, links):
        link.set_timeout(timeout)  # until they are put to use
    return links


def new_secret() -> str:
    return secrets.token_hex(32)


def as_text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _doors(stack: ExitStack, alone: bool) -> tuple[list[socket.socket], Card]:
    """What this rank listens at, and the card that says so."""
    unix = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    name = f"manyhands-{secrets.token_hex(16)}"
    unix.bind("\0" + name)
    unix.listen(1024)
    if alone:
        return [unix], {"port": 0, "unix": name, "interfaces": []}
    tcp = stack.enter_context(socket.create_server(("", 0), backlog=1024))
    card = {"port": tcp.getsockname()[1], "unix": name, "interfaces": [list(i) for i in interfaces()]}
    return [tcp, unix], card


def _link(peer: int, part: dict[str, Any], own: list[Interface]) -> Link:
    """The link of what the door received."""
    names = {interface.address: interface.name for interface in own}
    rails = {rail: names.get(sock.getsockname()[0], "") for rail, sock in part["data"].items() if rail != MEMORY}
    return Link(peer, part["control"], part["messages"], part["data"], rails)
