"""What starts workers: the interface, and the engine of this machine."""

from manyhands.engine.channel import Channel
from manyhands.engine.engine import HERE, Engine, EngineEvent, Exited, Printed, Said
from manyhands.engine.local import LocalEngine
from manyhands.engine.loop import Loop
from manyhands.engine.messages import Depot, Linking, Loaded, Meeting, Place
from manyhands.engine.process import describe_status

__all__ = [
    "HERE",
    "Channel",
    "Depot",
    "Engine",
    "EngineEvent",
    "Exited",
    "Linking",
    "Loaded",
    "LocalEngine",
    "Loop",
    "Meeting",
    "Place",
    "Printed",
    "Said",
    "describe_status",
]
