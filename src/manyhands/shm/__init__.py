"""Memory that the processes of a host share, without torch: where workers are, and the state that outlives them."""

from manyhands.shm.board import Board, Whereabouts
from manyhands.shm.memory import SharedMemory
from manyhands.shm.slots import Held, Slots

__all__ = ["Board", "Held", "SharedMemory", "Slots", "Whereabouts"]
