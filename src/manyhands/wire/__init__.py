"""What processes say to each other, whatever it is about: how strangers are told from peers, frames, and messages."""

from manyhands.wire.codec import Codec, Data, MessageError, decode_as, encode
from manyhands.wire.frames import MAX_FRAME, FrameError, Frames, pack
from manyhands.wire.gate import BACKLOG, Gate, Limits
from manyhands.wire.handshake import MAGIC, VERSION, StrangerError, admit, hold, introduce, watch
from manyhands.wire.strangers import TurnedAway

__all__ = [
    "BACKLOG",
    "MAGIC",
    "MAX_FRAME",
    "VERSION",
    "Codec",
    "Data",
    "FrameError",
    "Frames",
    "Gate",
    "Limits",
    "MessageError",
    "StrangerError",
    "TurnedAway",
    "admit",
    "decode_as",
    "encode",
    "hold",
    "introduce",
    "pack",
    "watch",
]
