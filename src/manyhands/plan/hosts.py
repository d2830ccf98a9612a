"""Which machine each process of a gang runs on, as text: `here,lab1,lab2:7500`, or with numbers of workers, as in
`here=3,lab1=1`."""

from __future__ import annotations

from typing import NamedTuple

from manyhands.engine import HERE
from manyhands.errors import UsageError

PORT = 7421
"""Where a host's agent listens, unless told otherwise."""


class Address(NamedTuple):
    """The address of an agent."""

    host: str
    port: int


def parse_hosts(flag: str, text: str) -> tuple[str, ...]:
    """The names in a list.

    Raises:
        UsageError: a name is empty, is there twice, or has a port that is none.
    """
    names = tuple(name.strip() for name in text.split(",")) if text.strip() else ()
    for name in names:
        if not name or names.count(name) > 1:
            raise UsageError(f"{flag} {text}: {'a name is missing' if not name else f'{name} is there twice'}.")
        parse_address(name, f"{flag} {text}: ")
    return names


def parse_shares(flag: str, text: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Names, and how many workers are on each; no numbers where the text has none.

    Raises:
        UsageError: as `parse_hosts`; or some names have a number and others do not.
    """
    items = [item.partition("=") for item in text.split(",")]
    names = parse_hosts(flag, ",".join(name for name, _, _ in items))
    if not any(equals for _, equals, _ in items):
        return names, ()
    counts = tuple(int(count) if count.strip().isdecimal() else 0 for _, _, count in items)
    if min(counts) < 1:
        raise UsageError(f"{flag} {text}: give every host a number of workers, as in here=3,lab1=1, or none of them.")
    return names, counts


def parse_address(name: str, about: str = "") -> Address:
    """Read an address: `lab1`, `lab1:7500`, `10.0.0.2`. Names of IPv4 addresses, since ranks find each other by those.

    Raises:
        UsageError: the port is none.
    """
    host, colon, port = name.partition(":")
    if not colon:
        return Address(name, PORT)
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise UsageError(f"{about}{name!r} is no host: write NAME or NAME:PORT.")
    return Address(host, int(port))


def place_blocks(count: int, hosts: tuple[str, ...]) -> tuple[str, ...]:
    """The host of each of so many processes: neighbours stay together, and hosts get equal numbers, the first ones one
    more where that does not come out even."""
    if not hosts:
        return (HERE,) * count
    base, more = divmod(count, len(hosts))
    return tuple(host for index, host in enumerate(hosts) for _ in range(base + (index < more)))


def place_workers(flag: str, text: str, count: int) -> tuple[str, ...]:
    """The host of each of so many workers.

    Raises:
        UsageError: the text names other numbers.
    """
    names, counts = parse_shares(flag, text)
    if not counts:
        return place_blocks(count, names)
    if sum(counts) != count:
        raise UsageError(f"{flag} {text} has {sum(counts)} worker(s), and there are {count}. Change one of the two.")
    return tuple(name for name, own in zip(names, counts, strict=True) for _ in range(own))
