"""Parameter servers: processes that hold the parameters and the optimizer's state for the workers."""

from manyhands.sync.server.assembling import Assembling
from manyhands.sync.server.chief import Chief, Committed
from manyhands.sync.server.division import Division
from manyhands.sync.server.keeper import Keeper, float_buffers
from manyhands.sync.server.line import Line
from manyhands.sync.server.messages import Why
from manyhands.sync.server.stale import StaleServer
from manyhands.sync.server.synchronous import SynchronousServer
from manyhands.sync.server.worker import StaleWorker

__all__ = [
    "Assembling",
    "Chief",
    "Committed",
    "Division",
    "Keeper",
    "Line",
    "StaleServer",
    "StaleWorker",
    "SynchronousServer",
    "Why",
    "float_buffers",
]
