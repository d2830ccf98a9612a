"""The network interfaces of this host, and which of them reach which peer."""

from __future__ import annotations

import fcntl
import ipaddress
import socket
import struct
from pathlib import Path
from typing import NamedTuple

_SIOCGIFADDR, _SIOCGIFNETMASK, _SIOCGIFFLAGS = 0x8915, 0x891B, 0x8913
_IFF_UP, _IFF_LOOPBACK = 0x1, 0x8


class Interface(NamedTuple):
    """An interface that is up and has an IPv4 address."""

    name: str
    address: str
    network: str
    """The subnet, for example 10.0.1.0/24: what the ends of a rail have in common."""


def interfaces() -> list[Interface]:
    """All but the loopback, in the order of their subnets."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _, name in socket.if_nameindex():
            flags = _ask(sock, _SIOCGIFFLAGS, name)
            if flags is None or not struct.unpack_from("<H", flags, 16)[0] & _IFF_UP:
                continue
            if struct.unpack_from("<H", flags, 16)[0] & _IFF_LOOPBACK:
                continue
            address, mask = _ask(sock, _SIOCGIFADDR, name), _ask(sock, _SIOCGIFNETMASK, name)
            if address is None or mask is None:
                continue
            ip = socket.inet_ntoa(address[20:24])
            network = ipaddress.ip_network(f"{ip}/{socket.inet_ntoa(mask[20:24])}", strict=False)
            found.append(Interface(name, ip, str(network)))
    return sorted(found, key=lambda i: (ipaddress.ip_network(i.network), i.name))


def subnet_order(rail: str) -> tuple[int, ...]:
    """Sorts rails, which are called by their subnets, by number; others come first."""
    try:
        network = ipaddress.ip_network(rail)
    except ValueError:
        return ()
    return (int(network.network_address), network.prefixlen)


def rails(own: list[Interface], peers: list[Interface]) -> list[tuple[Interface, Interface]]:
    """Pairs of interfaces in the same subnet. One with the same address at both ends leads nowhere (a bridge for
    containers, say), and a single address is no subnet."""
    return [
        (a, b)
        for a in own
        for b in peers
        if a.network == b.network and a.address != b.address and not a.network.endswith("/32")
    ]


def is_down(name: str) -> bool:
    """Whether an interface is known to carry nothing."""
    try:
        state = Path(f"/sys/class/net/{name}/operstate").read_text().strip()
    except OSError:
        return True  # it is gone
    return state in ("down", "lowerlayerdown")


def _ask(sock: socket.socket, request: int, name: str) -> bytes | None:
    try:
        return fcntl.ioctl(sock.fileno(), request, struct.pack("256s", name.encode()[:15]))
    except OSError:
        return None
