"""A group's channels for data, and the interpreter over them.

There is one channel per peer of the same host, through shared memory if both ends have the compiled interpreter, and
one per rail to every other peer.
"""

from __future__ import annotations

import hashlib
import struct
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from manyhands.cluster import Cluster
from manyhands.collective import Program
from manyhands.transport.agreement import Agreement
from manyhands.transport.errors import GroupError
from manyhands.transport.interfaces import subnet_order
from manyhands.transport.interpreter import (
    Encoded,
    Machine,
    MachineError,
    NativeMachine,
    Outcome,
    PortableMachine,
    encode,
    library,
)
from manyhands.transport.link import MEMORY, Link
from manyhands.transport.planner import ways
from manyhands.transport.rings import Rings

_HEADER = struct.Struct("<4sIQ48s")
"""The head of what is sent: magic, the sender's rank, the operation's number, what the operation is (a digest)."""
_MAGIC = b"MHOP"
_SPIN = 1000
"""Looks before the interpreter sleeps: some ten microseconds. Between looks it lets others have its core: ranks often
share one, and with yielding an all-reduce of 1 to 16 MiB between two takes a third less time."""


class Traffic(NamedTuple):
    """Bytes to and from a peer over a rail."""

    peer: int
    rail: str
    sent: int
    received: int


class Channels:
    """One rank's channels for data.

    Args:
        links: by peer.
        cluster: whose rails and switches plans speak of; None if it has none.
        portable: interpret programs in Python even where there is a compiler.
    """

    def __init__(self, rank: int, links: Mapping[int, Link], cluster: Cluster | None, portable: bool) -> None:
        self.rank, self._links, self._cluster = rank, links, cluster
        self._numbers: dict[tuple[int, str], int] = {}
        self._peers: list[int] = []
        self._rings = Rings(rank, max([rank, *links]) + 1)
        self._machine = self._build(library() is not None and not portable)

    def _build(self, native: bool) -> Machine:
        local = {p: link.data[MEMORY] for p, link in self._links.items() if link.local}
        ends = self._rings.share(local, native)
        channels = []
        for peer in sorted(self._links):
            for rail, sock in sorted(self._links[peer].data.items()):
                sock.setblocking(False)
                self._numbers[peer, rail] = len(channels)
                self._peers.append(peer)
                channels.append(ends.get(peer, sock) if rail == MEMORY else sock)
        if native:
            return NativeMachine(channels, self._rings.bell, self._rings.sleeping, _SPIN)
        return PortableMachine(channels, self._rings.bell)  # type: ignore[arg-type]

    @property
    def native(self) -> bool:
        return isinstance(self._machine, NativeMachine)

    def encode(self, program: Program, itemsize: int) -> Encoded:
        """Translate a program for `run`."""
        return encode(program, itemsize, self._number)

    def run(
        self,
        program: Encoded,
        buffers: Sequence[Tensor],
        dtype: torch.dtype,
        reduction: str,
        digest: bytes,
        agreement: Agreement,
        timeout: float,
    ) -> None:
        """Carry out a program as part of the operation that runs.

        Raises:
            GroupError: a peer is gone, at something else, or did not come in `timeout` seconds.
        """
        for channel in program.channels:
            agreement.need(self._peers[channel])
        what = hashlib.sha256(f"{agreement.doing} {dtype} {reduction}".encode() + digest).digest()
        header = _HEADER.pack(_MAGIC, self.rank, agreement.sequence, what)
        try:
            self._machine.run(program, buffers, dtype, reduction, header, time.monotonic() + timeout)
        except MachineError as error:
            raise self._explained(error, agreement, timeout) from None

    def _explained(self, error: MachineError, agreement: Agreement, timeout: float) -> GroupError:
        if agreement.broken is not None:
            return agreement.broken
        peer = self._peers[error.channel] if error.channel >= 0 else -1
        match error.outcome:
            case Outcome.LOST:
                return agreement.channel_broke(peer)
            case Outcome.TIMED_OUT:
                return agreement.waited(peer, timeout)
            case Outcome.MISMATCH:
                magic, _, sequence, _ = _HEADER.unpack(error.header)
                if magic == _MAGIC:
                    return agreement.differ(peer, sequence)
                what = f"what came from rank {peer} is no operation"
                return agreement.fail(GroupError(f"{agreement.context()}: {what}"))
        return agreement.fail(GroupError(f"{agreement.context()}: {error}"))

    def abort(self) -> None:
        """End the program that runs, and all that follow; from any thread."""
        self._machine.abort()

    def traffic(self) -> list[Traffic]:
        """Bytes moved so far."""
        return [Traffic(p, rail, *self._machine.traffic(i)) for (p, rail), i in self._numbers.items()]

    def close(self) -> None:
        self._machine.close()
        self._rings.close()

    def _number(self, peer: int, rail: str) -> int:
        """The channel to a peer for a plan's rail or switch, which the cluster may call otherwise: then by their order,
        if there are as many; else the first."""
        rails = sorted(self._links[peer].data, key=subnet_order)
        if rail not in rails:
            members = self._cluster.ranks if self._cluster else ()
            named = ways(self._cluster, members[self.rank], members[peer]) if self._cluster else []
            rail = rails[named.index(rail)] if rail in named and len(named) == len(rails) else rails[0]
        return self._numbers[peer, rail]
