"""Carries out a rank's program over channels to its peers: in C, or in Python where there is no compiler."""

from manyhands.transport.interpreter.encode import DTYPES, REDUCTIONS, Encoded, encode
from manyhands.transport.interpreter.native import NativeMachine, RingEnds, library
from manyhands.transport.interpreter.outcome import HEADER_SIZE, MachineError, Outcome
from manyhands.transport.interpreter.portable import PortableMachine

Machine = NativeMachine | PortableMachine

__all__ = [
    "DTYPES",
    "HEADER_SIZE",
    "REDUCTIONS",
    "Encoded",
    "Machine",
    "MachineError",
    "NativeMachine",
    "Outcome",
    "PortableMachine",
    "RingEnds",
    "encode",
    "library",
]
