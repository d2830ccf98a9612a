"""Measures the links between live ranks.

Two passes. Alone: in rounds of disjoint pairs, each pair exchanges pings and then sends both ways at full speed, over
one rail after another. Together: all pairs over all rails at once, so that what they share shows. measured.py makes a
`Cluster` of the figures.

The first part of every transfer is not counted: shapers let a burst through, and TCP starts slowly. Ranks on the same
host are not measured.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from manyhands.cluster import Cluster
from manyhands.transport.errors import PeerLostError, WaitedTooLongError
from manyhands.transport.link import MEMORY
from manyhands.transport.link import Link as Connection
from manyhands.transport.measured import Measured, cluster_of
from manyhands.transport.rendezvous import Store, as_text

_ALONE = 0.1
_TOGETHER = 0.2
"""Seconds of sending in each direction; the first half is not counted."""
_PINGS = 5
_BLOCK = 1 << 16
_WAIT = 20.0
_KEPT = 24 * 3600.0
"""Seconds for which a measurement between the same interfaces is believed."""


def measure(rank: int, links: Mapping[int, Connection]) -> Measured:
    """Take part in the measurement; all ranks must at the same time.

    Raises:
        PeerLostError, WaitedTooLongError: a rank is gone or does not take part.
    """
    world = len(links) + 1
    seen = Measured(local=[p for p, link in links.items() if link.local])
    streams = [(peer, rail, sock) for peer, link in links.items() for rail, sock in link.data.items() if rail != MEMORY]
    for sock in (s for _, _, s in streams):
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _BLOCK)  # no long queue to wait for at the end
    for peer in _rounds(rank, world):
        for _, rail, sock in sorted((s for s in streams if s[0] == peer), key=lambda s: s[1]):
            seen.latency.setdefault(str(peer), {})[rail] = _ping(sock, first=rank < peer, peer=peer)
            seen.alone.setdefault(str(peer), {})[rail] = _flood([(peer, rail, sock)], _ALONE)[peer, rail]
    for peer in _rounds(rank, world):  # all begin at about the same time
        for _, _, sock in [s for s in streams if s[0] == peer][:1]:
            _ping(sock, first=rank < peer, peer=peer)
    for (peer, rail), rate in _flood(streams, _TOGETHER).items():
        seen.together.setdefault(str(peer), {})[rail] = rate
    for sock in (s for _, _, s in streams):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, -1)
    return seen


def probed(store: Store, rank: int, links: Mapping[int, Connection], name: str, fresh: bool = False) -> Cluster:
    """The cluster of these ranks: measured now, or lately between the same interfaces (`fresh`: now)."""
    world = len(links) + 1
    cards = [as_text(store.get(f"{name}/{r}")) for r in range(world)]
    places = [json.loads(card)["interfaces"] for card in cards]
    local = sorted(p for p, link in links.items() if link.local)
    kept = _cache() / f"probe-{hashlib.sha256(json.dumps([places, local]).encode()).hexdigest()[:16]}.json"
    if rank == 0:
        store.set(f"{name}/probe", "measure" if fresh or not _is_recent(kept) else kept.read_text())
    known = as_text(store.get(f"{name}/probe"))
    if known == "measure":
        store.set(f"{name}/probe/{rank}", json.dumps(asdict(measure(rank, links))))
        rows = [as_text(store.get(f"{name}/probe/{r}")) for r in range(world)]
        known = json.dumps([json.loads(row) for row in rows])
        if rank == 0:
            _keep(kept, known)
    return cluster_of([Measured(**row) for row in json.loads(known)])


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "manyhands"


def _is_recent(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime < _KEPT
    except OSError:
        return False


def _keep(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        made = path.with_suffix(f".{os.getpid()}")
        made.write_text(text)
        made.replace(path)
    except OSError:
        return  # measured again next time


def _rounds(rank: int, world: int) -> list[int]:
    """The peers of a rank in each round of a tournament in which everyone meets everyone (the circle method)."""
    size = world + world % 2
    opponents = []
    for turn in range(size - 1):
        if rank == size - 1:
            # The fixed seat meets whoever is paired with itself otherwise.
            peer = next(r for r in range(size - 1) if (2 * r - turn) % (size - 1) == 0)
        else:
            peer = (turn - rank) % (size - 1)
            if peer == rank:
                peer = size - 1
        if peer < world:
            opponents.append(peer)
    return opponents


def _ping(sock: socket.socket, first: bool, peer: int) -> float:
    """Half the shortest round trip, in seconds."""
    best = float("inf")
    for _ in range(_PINGS + 1):
        began = time.monotonic()
        if first:
            sock.send(b"p")
            _receive(sock, 1, peer)
        else:
            _receive(sock, 1, peer)
            sock.send(b"p")
        best = min(best, time.monotonic() - began) if first else 0.0
    if first:
        sock.send(struct.pack("<d", best / 2))
        return best / 2
    return struct.unpack("<d", _receive(sock, 8, peer))[0]


def _receive(sock: socket.socket, size: int, peer: int) -> bytes:
    data = b""
    while len(data) < size:
        if not select.select([sock], [], [], _WAIT)[0]:
            raise WaitedTooLongError(f"rank {peer} does not answer while links are measured")
        try:
            more = sock.recv(size - len(data))
        except OSError:
            more = b""
        if not more:
            raise PeerLostError(peer, "measuring links")
        data += more
    return data


class _Flow:
    """One connection at full speed in both directions. The last byte of a block says whether it is the last one."""

    def __init__(self, peer: int, sock: socket.socket) -> None:
        self.peer, self.sock = peer, sock
        self.unsent = memoryview(b"")
        self.last_queued = self.sent_all = self.received_all = False
        self.marks: list[tuple[float, int]] = []
        self.received = 0
        self.tail = b""

    def write(self, end: float) -> None:
        """Send what it takes, until `end` on the monotonic clock; a peer that keeps up takes all there is."""
        try:
            while True:
                if not len(self.unsent):
                    if self.last_queued:
                        self.sent_all = True
                        return
                    self.last_queued = time.monotonic() >= end
                    self.unsent = memoryview(bytes(_BLOCK - 1) + (b"\1" if self.last_queued else b"\0"))
                self.unsent = self.unsent[self.sock.send(self.unsent) :]
        except BlockingIOError:
            return
        except OSError:
            raise PeerLostError(self.peer, "measuring links") from None

    def read(self) -> None:
        try:
            while not self.received_all:
                # Never beyond the end of a block: what follows the last one is not ours.
                data = self.sock.recv(_BLOCK - self.received % _BLOCK)
                if not data:
                    raise PeerLostError(self.peer, "measuring links")
                self.received += len(data)
                self.marks.append((time.monotonic(), self.received))
                if self.received % _BLOCK == 0 and data[-1] == 1:
                    self.received_all = True
        except BlockingIOError:
            return
        except OSError:
            raise PeerLostError(self.peer, "measuring links") from None

    def rate(self) -> float:
        """Bytes/s over the second half of the time. Reads are far apart on a busy machine, so what had come by
        half-time is interpolated."""
        (first, _), (end, total) = self.marks[0], self.marks[-1]
        half = (first + end) / 2
        late = next(i for i, mark in enumerate(self.marks) if mark[0] >= half)
        (before, less), (after, more) = self.marks[max(0, late - 1)], self.marks[late]
        by_half = less + (more - less) * ((half - before) / (after - before) if after > before else 1.0)
        return (total - by_half) / max(end - half, 1e-3)


def _flood(streams: Sequence[tuple[int, str, socket.socket]], seconds: float) -> dict[tuple[int, str], float]:
    """Send and receive at full speed over all of these at once; the rates at which this rank received."""
    flows = {(peer, rail): _Flow(peer, sock) for peer, rail, sock in streams}
    end = time.monotonic() + seconds
    while pending := [f for f in flows.values() if not (f.sent_all and f.received_all)]:
        if time.monotonic() > end + _WAIT:
            raise WaitedTooLongError(f"rank {pending[0].peer} does not take part in measuring links")
        reads: list[Any] = [f.sock for f in pending if not f.received_all]
        writes: list[Any] = [f.sock for f in pending if not f.sent_all]
        readable, writable, _ = select.select(reads, writes, [], _WAIT)
        for flow in pending:
            if flow.sock in writable:
                flow.write(end)
            if flow.sock in readable:
                flow.read()
    return {key: flow.rate() for key, flow in flows.items()}
