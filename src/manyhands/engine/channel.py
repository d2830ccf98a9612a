"""Small messages between a supervisor and its processes: JSON over a Unix socket, with file descriptors.

The socket is `SOCK_SEQPACKET`: one packet is one message, and an empty read is the end. JSON because whatever
arrives here is data and must never be able to be code.
"""

from __future__ import annotations

import array
import json
import select
import socket
from collections.abc import Sequence

from manyhands.wire import Data, encode

MAX_MESSAGE = 128 << 10
"""Bytes of a message at most; well under Linux's default socket buffer of 208 KiB."""

_MAX_DESCRIPTORS = 253
"""Descriptors of a message at most, as Linux has it (SCM_MAX_FD); bounds a gang on one host to 254 workers."""


class Channel:
    """One end of a message pipe."""

    def __init__(self, link: socket.socket) -> None:
        self.link = link

    @staticmethod
    def pair() -> tuple[Channel, Channel]:
        left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return Channel(left), Channel(right)

    def send(self, message: object, descriptors: Sequence[int] = ()) -> None:
        """Send one message, a dataclass as in `wire/codec.py`.

        Raises:
            ValueError: the message is longer than `MAX_MESSAGE`.
            OSError: the other end is gone.
        """
        packet = json.dumps(encode(message), separators=(",", ":")).encode()
        if len(packet) > MAX_MESSAGE:
            raise ValueError(f"a message of {len(packet)} bytes is over the bound of {MAX_MESSAGE}")
        if descriptors:
            socket.send_fds(self.link, [packet], list(descriptors))
        else:
            self.link.send(packet)

    def receive(self) -> tuple[Data, list[int]] | None:
        """The next message, not decoded yet, and the descriptors it carries; waits for it. None when the other end is
        gone."""
        size = array.array("i").itemsize
        try:
            packet, ancillary, _, _ = self.link.recvmsg(
                MAX_MESSAGE, socket.CMSG_SPACE(_MAX_DESCRIPTORS * size), socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionResetError:
            return None
        if not packet:
            return None
        descriptors = array.array("i")
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                descriptors.frombytes(content[: len(content) - len(content) % size])
        return json.loads(packet), list(descriptors)

    def pending(self) -> bool:
        """Whether `receive` would return at once."""
        return self.wait(0.0)

    def wait(self, seconds: float) -> bool:
        """Whether `receive` would return within so long."""
        poll = select.poll()
        poll.register(self.link, select.POLLIN)
        return bool(poll.poll(seconds * 1e3))

    def close(self) -> None:
        self.link.close()
