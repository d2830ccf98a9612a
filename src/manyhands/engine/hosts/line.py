"""Connections between hosts: who dials proves that it knows the token, and is sure that the other does."""

from __future__ import annotations

import select
import socket
import struct
import time
from collections import deque

from manyhands.wire import MAX_FRAME, Data, FrameError, Frames, StrangerError, encode, hold, introduce, pack

BEAT_SECONDS = 0.5
"""A supervisor hears something from every host that often, and takes long silence for the loss of it."""
_TRIES = 4
_PAUSE_SECONDS = 0.2
_QUIET_SECONDS = 20
"""A connection over which nothing gets for that long is lost."""
_CHUNK = 1 << 20
_LENGTH = struct.Struct("<I")


class LineLostError(Exception):
    """The other end is gone, or silent, or said what nobody can understand."""


def dial(address: tuple[str, int], token: bytes, seconds: float, watch: bool = False) -> socket.socket:
    """A connection to who listens there, and knows the token.

    Args:
        watch: to an agent, to hear from it as long as it is there, and nothing else.

    Raises:
        LineLostError: nobody answers there, or somebody who does not know the token.
    """
    deadline = time.monotonic() + seconds
    for left in reversed(range(_TRIES)):
        try:
            return _dial(address, token, deadline, watch)
        except (OSError, ValueError, StrangerError) as error:  # a name may be none at all
            if isinstance(error, TimeoutError):
                raise LineLostError(f"no answer within {seconds:.0f} s") from None
            if isinstance(error, _TurnedAwayError) and left and time.monotonic() + _PAUSE_SECONDS < deadline:
                time.sleep(_PAUSE_SECONDS)  # where many strangers come, one of us may have to go with them
            elif isinstance(error, StrangerError | _TurnedAwayError):
                raise LineLostError(
                    "its token is another one, or what listens there is no agent of manyhands"
                ) from None
            else:
                raise _lost(error) from None
    raise AssertionError


class _TurnedAwayError(ConnectionError):
    """The connection was closed before it was agreed on anything."""


def _dial(address: tuple[str, int], token: bytes, deadline: float, watch: bool) -> socket.socket:
    sock = socket.create_connection(address, max(0.01, deadline - time.monotonic()))
    try:
        introduce(sock, token, {"to": 0, "watch": watch}, deadline)
        sock.settimeout(None)
        return sock
    except (ConnectionResetError, BrokenPipeError) as error:
        sock.close()
        raise _TurnedAwayError(str(error)) from None
    except BaseException:
        sock.close()
        raise


def outlive(sock: socket.socket) -> None:
    """Have the kernel notice on a connection that is silent most of the time that the other end cannot be reached."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _QUIET_SECONDS // 2)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _QUIET_SECONDS * 1000)


class Line:
    """One end of a connection that carries messages both ways, often. One thread at a time sends, and one receives.

    Args:
        patience: seconds after which an end that takes nothing is gone.
    """

    def __init__(self, sock: socket.socket, patience: float) -> None:
        hold(sock)
        if sock.family in (socket.AF_INET, socket.AF_INET6):  # what it sends has to be taken in this time
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(patience * 1e3))
        self.sock = sock
        self._frames = Frames()
        self._come: deque[Data] = deque()

    def send(self, message: object) -> None:
        """
        Raises:
            LineLostError: the other end is gone.
        """
        send_with(self.sock, message)

    def receive(self, seconds: float) -> Data:
        """The next message; waits for it.

        Raises:
            LineLostError: the other end is gone, or has said nothing for so long.
        """
        deadline = time.monotonic() + seconds
        while not self._come:
            if not select.select([self.sock], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise LineLostError(f"it has not answered for {seconds:.0f} s")
            self.read()
        return self._come.popleft()

    def read(self) -> None:
        """Read what has come on the line, which is something.

        Raises:
            LineLostError: the other end is gone.
        """
        try:
            data = self.sock.recv(_CHUNK)
            self._come.extend(self._frames.feed(data))
        except (OSError, FrameError) as error:
            raise _lost(error) from None
        if not data:
            raise LineLostError("it closed the connection")

    def take(self) -> list[Data]:
        """Messages that have been read."""
        messages = list(self._come)
        self._come.clear()
        return messages

    def close(self) -> None:
        self.sock.close()


def send_with(sock: socket.socket, message: object, data: memoryview | bytes = b"") -> None:
    """Send a message and the bytes that belong to it.

    Raises:
        LineLostError: the other end is gone.
    """
    try:
        sock.sendall(pack(encode(message)))
        sock.sendall(data)
    except OSError as error:
        raise _lost(error) from None


def receive_head(sock: socket.socket) -> Data:
    """A message, and not a byte of what belongs to it.

    Raises:
        LineLostError: the other end is gone, or this is no message.
    """
    head = bytearray(_LENGTH.size)
    receive_into(sock, memoryview(head))
    if (length := _LENGTH.unpack(head)[0]) > MAX_FRAME:
        raise LineLostError(f"a message of {length} bytes, more than {MAX_FRAME}")
    body = bytearray(length)
    receive_into(sock, memoryview(body))
    try:
        return Frames().feed(bytes(head + body))[0]
    except FrameError as error:
        raise _lost(error) from None


def receive_into(sock: socket.socket, target: memoryview) -> None:
    """Fill `target` with bytes from the other end.

    Raises:
        LineLostError: the other end is gone.
    """
    done = 0
    try:
        while done < len(target):
            if not (count := sock.recv_into(target[done:])):
                raise LineLostError("it closed the connection")
            done += count
    except OSError as error:
        raise _lost(error) from None


def _lost(error: Exception) -> LineLostError:
    return LineLostError(getattr(error, "strerror", None) or str(error))
