"""What processes say to each other, whatever it is about: how strangers are told from peers, frames, and messages."""

from manyhands.wire.codec import Codec, Data, MessageError, decode_as, encode
from manyhands.wire.frames import MAX_FRAME, FrameError, Frames, pack
from manyhands.wire.handshake import MAGIC, VERSION, StrangerError, admit, hold, introduce, watch

__all__ = [
    "MAGIC",
    "MAX_FRAME",
    "VERSION",
    "Codec",
    "Data",
    "FrameError",
    "Frames",
    "MessageError",
    "StrangerError",
    "admit",
    "decode_as",
    "encode",
    "hold",
    "introduce",
    "pack",
    "watch",
]
