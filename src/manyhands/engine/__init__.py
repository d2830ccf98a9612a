"""What starts workers: the interface, and the engine of this machine."""

from manyhands.engine.channel import Channel, Message
from manyhands.engine.engine import HERE, Engine, EngineEvent, Exited, Loaded, Printed, Said
from manyhands.engine.local import LocalEngine
from manyhands.engine.loop import Loop
from manyhands.engine.process import describe_status

__all__ = [
    "HERE",
    "Channel",
    "Engine",
    "EngineEvent",
    "Exited",
    "Loaded",
    "LocalEngine",
    "Loop",
    "Message",
    "Printed",
    "Said",
    "describe_status",
]
