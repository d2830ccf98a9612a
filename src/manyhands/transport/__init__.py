"""Bytes between the processes of a host: shared memory for tensors and state, sockets for notes about them."""

from manyhands.transport.board import Board, Whereabouts
from manyhands.transport.memory import SharedMemory
from manyhands.transport.mesh import READY, REDUCED, Mesh, PeerLostError
from manyhands.transport.slots import Held, Slots

__all__ = ["READY", "REDUCED", "Board", "Held", "Mesh", "PeerLostError", "SharedMemory", "Slots", "Whereabouts"]
