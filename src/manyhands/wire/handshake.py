"""How strangers are told from peers.

Both ends prove that they know the run's secret before anything else is read, and that they speak the same version.

    client: MAGIC, nonce (16 bytes), length (u16), purpose (JSON of that length)
    server: MAGIC, nonce (16), HMAC-SHA256(secret, "server" + both nonces + purpose) (32)
    client: HMAC-SHA256(secret, "client" + both nonces + purpose) (32)
    server: b"y"

MAGIC ends with the version of the protocol (`VERSION`), which grows whenever a message changes its form.
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

VERSION = 3
"""Version of all that processes of different hosts say to each other. One digit."""
_NAME = b"MNYHNDS"
MAGIC = _NAME + str(VERSION).encode()
_MAX_PURPOSE = 1024
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
    _check_version(_read(sock, 8, deadline))
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
    theirs = _read(sock, 8, deadline)
    if theirs[:-1] == _NAME and theirs != MAGIC:
        sock.sendall(MAGIC)  # so that it can say which version it met
    _check_version(theirs)
    nonce = _read(sock, 16, deadline)
    (length,) = _SHORT.unpack(_read(sock, 2, deadline))
    if length > _MAX_PURPOSE:
        raise StrangerError(f"its introduction has {length} bytes, more than {_MAX_PURPOSE}")
    text = _read(sock, length, deadline)
    own = secrets.token_bytes(16)
    both = nonce + own + text
    sock.sendall(MAGIC + own + _proof(secret, b"server", both))
    if not hmac.compare_digest(_read(sock, 32, deadline), _proof(secret, b"client", both)):
        raise StrangerError("it does not know this run's secret")
    purpose = _purpose(text)
    if purpose["to"] != rank:
        raise StrangerError(f"it looks for rank {purpose['to']}, this is rank {rank}")
    sock.sendall(b"y")
    return purpose


def _purpose(text: bytes) -> dict[str, Any]:
    """
    Raises:
        StrangerError: what it comes for is no object, or does not say whom it looks for.
    """
    try:
        purpose = json.loads(text)
    except (ValueError, RecursionError):
        raise StrangerError("its introduction is not JSON") from None
    if not isinstance(purpose, dict) or type(purpose.get("to")) is not int:
        raise StrangerError("its introduction does not say whom it looks for")
    return purpose


def watch(sock: socket.socket) -> None:
    """Set up a connection that is always read and never long silent: the kernel notices within two seconds that the
    other end cannot be reached any more."""
    hold(sock)
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1500)


def hold(sock: socket.socket) -> None:
    """Set up a connection that may not be read for long: whoever is late is not lost."""
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _check_version(theirs: bytes) -> None:
    """
    Raises:
        StrangerError: the other end speaks another protocol, or another version of this one.
    """
    if theirs[:-1] != _NAME:
        raise StrangerError("it does not speak manyhands' protocol")
    if theirs != MAGIC:
        raise StrangerError(
            f"it speaks version {theirs[-1:].decode(errors='replace')} of manyhands' protocol, and this is version "
            f"{VERSION}. Install the same manyhands on all hosts."
        )


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
