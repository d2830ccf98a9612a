"""Rings in shared memory between the ranks of a host.

Each rank owns one anonymous file with a flag (whether it sleeps) and a ring for what comes from each peer, and a bell
(an eventfd). It hands both to its peers as descriptors, which only the kernel they share can do; the nonce written into
the memory proves that the file that arrived is the one that was sent. Every group has its own.

Layout: flag at 0, nonce at 64, rings from 4096 on, by the sender's rank: two positions on a cache line of their own,
then the bytes (`ring_t` of machine.c).
"""

from __future__ import annotations

import ctypes
import os
import secrets
import socket
from collections.abc import Mapping

from manyhands.shm.memory import SharedMemory
from manyhands.transport.errors import GroupError, PeerLostError
from manyhands.transport.interpreter import RingEnds

_CAPACITY = 1 << 20
"""Bytes of a ring: a few pieces (machine.c) each way; larger ones fall out of the cache."""
_POSITIONS = 128
_FIRST = 4096
_NONCE = 64


class Rings:
    """This rank's end of all rings of a group."""

    def __init__(self, rank: int, world: int) -> None:
        self.rank = rank
        self._memory = SharedMemory(_place(world), name="manyhands-rings")
        self._nonce = secrets.token_bytes(16)
        self._memory.view[_NONCE : _NONCE + 16] = self._nonce
        self.bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._peers: list[SharedMemory] = []
        self._bells = [self.bell]

    @property
    def sleeping(self) -> int:
        """Address of this rank's flag."""
        return _address(self._memory)

    def share(self, sockets: Mapping[int, socket.socket], native: bool) -> dict[int, RingEnds]:
        """Exchange memory with these peers over Unix sockets. Rings need the compiled interpreter at both ends: only
        peers that have it, if this rank has (`native`), are in the result.

        Raises:
            PeerLostError: a peer is gone, or did not come within the socket's timeout.
            GroupError: what a peer handed over is not its memory.
        """
        flag = b"n" if native else b"p"
        for peer, sock in sockets.items():
            try:
                socket.send_fds(sock, [flag + self._nonce], [self._memory.descriptor, self.bell])
            except OSError as error:
                raise PeerLostError(peer, self._sharing, _reason(error)) from None
        return {peer: ends for peer, sock in sockets.items() if (ends := self._receive(peer, sock, flag))}

    def close(self) -> None:
        for memory in (self._memory, *self._peers):
            memory.close()
        for bell in self._bells:
            os.close(bell)
        self._peers, self._bells = [], []

    @property
    def _sharing(self) -> str:
        return f"rank {self.rank} shared memory with it"

    def _receive(self, peer: int, sock: socket.socket, flag: bytes) -> RingEnds | None:
        reason = "was lost"
        try:
            data, descriptors, _, _ = socket.recv_fds(sock, 17, 2, socket.MSG_CMSG_CLOEXEC)
        except OSError as error:
            data, descriptors, reason = b"", [], _reason(error)
        if len(data) != 17 or len(descriptors) != 2:
            for descriptor in descriptors:
                os.close(descriptor)
            raise PeerLostError(peer, self._sharing, reason)
        memory = SharedMemory(0, descriptors[0])
        self._peers.append(memory)
        self._bells.append(descriptors[1])
        size = len(self._memory.view)  # ranks of one group have as much each
        if len(memory.view) != size or memory.view[_NONCE : _NONCE + 16] != data[1:]:
            raise GroupError(f"rank {peer} handed over memory that is not its own")
        if data[:1] != b"n" or flag != b"n":
            return None
        theirs = _address(memory)
        return RingEnds(
            theirs + _place(self.rank), _address(self._memory) + _place(peer), _CAPACITY, theirs, descriptors[1]
        )


def _reason(error: OSError) -> str:
    return "did not come in time" if isinstance(error, TimeoutError) else "was lost"


def _place(sender: int) -> int:
    return _FIRST + sender * (_POSITIONS + _CAPACITY)


def _address(memory: SharedMemory) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory.view))
