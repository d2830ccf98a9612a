"""The frames of what processes say to each other over a stream: a length (u32, at most `MAX_FRAME`) and so many bytes
of JSON. Nothing is ever unpickled."""

from __future__ import annotations

import json
import struct

from manyhands.wire.codec import Data

MAX_FRAME = 8 << 20
"""Bytes."""
_LENGTH = struct.Struct("<I")


class FrameError(Exception):
    """What came is no frame."""


def pack(message: Data) -> bytes:
    text = json.dumps(message).encode()
    return _LENGTH.pack(len(text)) + text


class Frames:
    """Takes frames out of a stream as they become whole."""

    def __init__(self) -> None:
        self._unread = bytearray()

    def feed(self, data: bytes) -> list[Data]:
        """The frames that are complete now.

        Raises:
            FrameError: an oversized frame, or one that is not a JSON object.
        """
        self._unread += data
        frames = []
        while len(self._unread) >= 4:
            (length,) = _LENGTH.unpack_from(self._unread)
            if length > MAX_FRAME:
                raise FrameError(f"a frame of {length} bytes, more than {MAX_FRAME}")
            if len(self._unread) < 4 + length:
                break
            try:
                frame = json.loads(self._unread[4 : 4 + length])
            except (ValueError, RecursionError):
                raise FrameError("a frame that is not JSON") from None
            if not isinstance(frame, dict):
                raise FrameError("a frame that is not an object")
            frames.append(frame)
            del self._unread[: 4 + length]
        return frames
