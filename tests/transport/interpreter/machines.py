"""Machines joined by rings of any size, or by sockets, in threads of one process."""

import mmap
import os
import socket
import time
from ctypes import addressof, c_char
from itertools import combinations

from groups import DEADLINE, together

from manyhands.transport.interpreter import HEADER_SIZE, NativeMachine, PortableMachine, RingEnds, encode

HEADER = b"MHOP".ljust(HEADER_SIZE, b"\0")
_POSITIONS, _FIRST = 128, 4096


class Bench:
    """One machine per rank; every pair shares one channel.

    Args:
        portable: ranks that interpret in Python; those have sockets only.
        capacity: bytes of a ring; 0: sockets everywhere.
    """

    def __init__(self, world, portable=(), capacity=1 << 16, socket_buffer=0):
        self.world = world
        stride = -(-(_POSITIONS + capacity) // 64) * 64
        self.bells = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(world)]
        self.memory = [mmap.mmap(-1, _FIRST + world * stride) for _ in range(world)]
        self.sockets = []
        base = [addressof(c_char.from_buffer(memory)) for memory in self.memory]
        self.channels = [{} for _ in range(world)]
        for a, b in combinations(range(world), 2):
            if not capacity or a in portable or b in portable:
                ends = socket.socketpair()
                for end in ends:
                    end.setblocking(False)
                    if socket_buffer:
                        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, socket_buffer)
                self.sockets += ends
                self.channels[a][b], self.channels[b][a] = ends
            else:
                for x, y in ((a, b), (b, a)):
                    self.channels[x][y] = RingEnds(
                        base[y] + _FIRST + x * stride, base[x] + _FIRST + y * stride, capacity, base[y], self.bells[y]
                    )
        self.peers = [sorted(channels) for channels in self.channels]
        self.machines = []
        for rank in range(world):
            channels = [self.channels[rank][peer] for peer in self.peers[rank]]
            if rank in portable:
                self.machines.append(PortableMachine(channels, self.bells[rank]))
            else:
                self.machines.append(NativeMachine(channels, self.bells[rank], base[rank], 50))

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        for machine in self.machines:
            machine.close()
        for end in self.sockets:
            end.close()
        for bell in self.bells:
            os.close(bell)

    def encode(self, program, itemsize):
        peers = self.peers[program.rank]
        return encode(program, itemsize, lambda peer, rail: peers.index(peer))

    def rank(self, program, buffers, dtype, reduction="sum", header=HEADER, seconds=DEADLINE):
        """A function that carries out one rank's program."""
        encoded = self.encode(program, dtype.itemsize)
        machine = self.machines[program.rank]
        return lambda: machine.run(encoded, buffers, dtype, reduction, header, time.monotonic() + seconds)

    def run(self, programs, buffers, dtype, reduction="sum"):
        """All ranks' programs at once; raises what one raised."""
        rows = zip(programs, buffers, strict=True)
        for result in together(*(self.rank(program, row, dtype, reduction) for program, row in rows)):
            if result is not None:
                raise result
