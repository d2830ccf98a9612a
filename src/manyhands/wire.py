"""How strangers are told from peers, and the frames of what they say to each other.

Handshake: both ends prove that they know the run's secret before anything else is read.

    client: MAGIC, nonce (16 bytes), length (u16), purpose (JSON of that length)
    server: nonce (16), HMAC-SHA256(secret, "server" + both nonces + purpose) (32)
    client: HMAC-SHA256(secret, "client" + both nonces + purpose) (32)
    server: b"y"

A frame is a length (u32, at most `MAX_FRAME`) and so many bytes of JSON. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import socket
import struct
import time
from typing import Any

MAGIC = b"MNYHNDS1"
MAX_FRAME = 8 << 20
_MAX_PURPOSE = 1024
_LENGTH = struct.Struct("<I")
_SHORT = struct.Struct("<H")


class StrangerError(Exception):
    """Whoever is at the other end is not one of us, or not of this run."""


def introduce(sock: socket.socket, secret: bytes, purpose: dict[str, Any], deadline: float) -> None:
    """The client's half of the handshake. `purpose` says which rank it is for: `to`.

    Raises:
        StrangerError: the other end does not know the secret.
        OSError: the connection broke.
    """
    text = json.dumps(purpose).encode()
    nonce = secrets.token_bytes(16)
    sock.settimeout(_left(deadline))
    sock.sendall(MAGIC + nonce + _SHORT.pack(len(text)) + text)
    answer = _read(sock, 48, deadline)
    both = nonce + answer[:16] + text
    if not hmac.compare_digest(answer[16:], _proof(secret, b"server", both)):
        raise StrangerError("the other end of the connection does not know this run's secret")
    sock.sendall(_proof(secret, b"client", both))
    if _read(sock, 1, deadline) != b"y":
        raise StrangerError("the other end of the connection refused it")


def admit(sock: socket.socket, secret: bytes, rank: int, deadline: float) -> dict[str, Any]:
    """The half of the server, which is this rank; returns the purpose.

    Raises:
        StrangerError: the other end does not speak this protocol, does not know the secret, or means another rank.
        OSError: the connection broke.
    """
    if _read(sock, 8, deadline) != MAGIC:
        raise StrangerError("it does not speak manyhands' protocol")
    nonce = _read(sock, 16, deadline)
    (length,) = _SHORT.unpack(_read(sock, 2, deadline))
    if length > _MAX_PURPOSE:
        raise StrangerError(f"its introduction has {length} bytes, more than {_MAX_PURPOSE}")
    text = _read(sock, length, deadline)
    own = secrets.token_bytes(16)
    both = nonce + own + text
    sock.sendall(own + _proof(secret, b"server", both))
    if not hmac.compare_digest(_read(sock, 32, deadline), _proof(secret, b"client", both)):
        raise StrangerError("it does not know this run's secret")
    purpose = json.loads(text)
    if purpose["to"] != rank:
        raise StrangerError(f"it looks for rank {purpose['to']}, this is rank {rank}")
    sock.sendall(b"y")
    return purpose


def watch(sock: socket.socket) -> None:
    """For a connection that is always read and never long silent: the kernel notices within two seconds that the other
    end cannot be reached any more."""
    hold(sock)
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1500)


def hold(sock: socket.socket) -> None:
    """For a connection that may not be read for long: whoever is late is not lost."""
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class FrameError(Exception):
    """What came is no frame."""


def pack(message: dict[str, Any]) -> bytes:
    text = json.dumps(message).encode()
    return _LENGTH.pack(len(text)) + text


class Frames:
    """Takes frames out of a stream as they become whole."""

    def __init__(self) -> None:
        self._unread = bytearray()

    def feed(self, data: bytes) -> list[dict[str, Any]]:
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


def _proof(secret: bytes, role: bytes, both: bytes) -> bytes:
    return hmac.new(secret, role + both, hashlib.sha256).digest()


def _read(sock: socket.socket, size: int, deadline: float) -> bytes:
    data = b""
    while len(data) < size:
        sock.settimeout(_left(deadline))
        more = sock.recv(size - len(data))
        if not more:
            raise ConnectionResetError("the connection was closed during the handshake")
        data += more
    return data


def _left(deadline: float) -> float:
    return max(1e-3, deadline - time.monotonic())
