"""Bytes between the processes of a host: shared memory for tensors and state, sockets for notes about them."""

from manyhands.transport.board import Board, Whereabouts
from manyhands.transport.errors import GroupError, MismatchError, PeerLostError, WaitedTooLongError
from manyhands.transport.group import Group
from manyhands.transport.memory import SharedMemory
from manyhands.transport.mesh import READY, REDUCED, Mesh
from manyhands.transport.slots import Held, Slots

__all__ = [
    "READY",
    "REDUCED",
    "Board",
    "Group",
    "GroupError",
    "Held",
    "Mesh",
    "MismatchError",
    "PeerLostError",
    "SharedMemory",
    "Slots",
    "WaitedTooLongError",
    "Whereabouts",
]
