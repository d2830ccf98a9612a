"""Where processes on other hosts leave state and find each other: a server in the process of the supervisor.

Processes on the supervisor's machine share memory with it (shm/slots.py). For those elsewhere the depot writes to the
same slots, and reads from them, so that the supervisor sees no difference. It is also the store by which the members
of a gang that spans hosts connect. One thread a connection; requests are messages, state follows as bytes.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from manyhands.engine.hosts.line import LineLostError, dial, receive_head, receive_into, send_with
from manyhands.errors import UserError
from manyhands.shm import Held, Slots
from manyhands.wire import StrangerError, admit, hold

_log = logging.getLogger("manyhands")
_HANDSHAKE_SECONDS = 10.0
_DIAL_SECONDS = 10.0
_SILENT_SECONDS = 60.0
"""A writer from which nothing comes for that long is gone."""
_HEADER = 4 << 20
"""Bytes that an image may have beyond those of its tensors."""
_MEETING_SECONDS = 30.0
"""How long members of a gang that is being formed wait for what another has to say."""


class Depot:
    """The server.

    Args:
        token: what clients must know.
        slots: that the supervisor reads.
        files: where checkpoints are, which may be fetched; nothing else may.
    """

    def __init__(self, token: bytes, slots: tuple[int, int], files: Path) -> None:
        self._token, self._slots, self._files = token, slots, files.resolve()
        self._said: dict[str, str] = {}
        self._writer: socket.socket | None = None
        self._news = threading.Condition()
        self._listener = socket.create_server(("", 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True, name="manyhands-depot").start()

    def close(self) -> None:
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, address = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock, address), daemon=True, name="manyhands-depot").start()

    def _serve(self, sock: socket.socket, address: object) -> None:
        answers = {
            "set": self._set,
            "get": self._get,
            "newest": self._newest,
            "write": self._write,
            "read": self._read,
            "file": self._file,
        }
        try:
            with sock:
                admit(sock, self._token, 0, time.monotonic() + _HANDSHAKE_SECONDS)
                hold(sock)
                sock.settimeout(None)
                slots = Slots(self._slots)
                while True:
                    request = receive_head(sock)
                    answers[request["ask"]](sock, slots, request)
        except LineLostError:
            pass  # whoever it was is gone
        except (StrangerError, OSError, ValueError, KeyError) as error:
            _log.warning("turned away a connection from %s: %s", address, error)

    def _set(self, sock: socket.socket, slots: Slots, request: dict[str, Any]) -> None:
        with self._news:
            self._said[request["key"]] = request["value"]
            self._news.notify_all()
        send_with(sock, {})

    def _get(self, sock: socket.socket, slots: Slots, request: dict[str, Any]) -> None:
        with self._news:
            self._news.wait_for(lambda: request["key"] in self._said, request["seconds"])
            value = self._said.get(request["key"])
        send_with(sock, {"value": value})

    def _newest(self, sock: socket.socket, slots: Slots, request: dict[str, Any]) -> None:
        send_with(sock, {"held": slots.newest()})

    def _write(self, sock: socket.socket, slots: Slots, request: dict[str, Any]) -> None:
        with self._news:
            former, self._writer = self._writer, sock
        if former is not None and former is not sock:
            # Of a host that was lost: what it still sends must not get into a slot.
            with contextlib.suppress(OSError):
                former.shutdown(socket.SHUT_RDWR)
        slots.pinned = request["pinned"]
        slot, target = slots.begin(request["length"])
        send_with(sock, {"slot": slot})
        sock.settimeout(_SILENT_SECONDS)
        receive_into(sock, target)  # if the rest never comes, the other slot is whole
        sock.settimeout(None)
        with self._news:
            if self._writer is not sock:
                raise LineLostError("another writes")
            slots.commit(slot, request["step"], request["length"])
        send_with(sock, {})

    def _read(self, sock: socket.socket, slots: Slots, request: dict[str, Any]) -> None:
        image = slots.read(request["slot"])
        send_with(sock, {"length": len(image)}, image)

    def _file(self, sock: socket.socket, slots: Slots, request: dict[str, Any]) -> None:
        path = Path(request["path"]).resolve()
        if not path.is_relative_to(self._files):
            raise ValueError(f"{path} is not one of the run's checkpoints")
        with path.open("rb") as file:
            send_with(sock, {"length": path.stat().st_size})
            try:
                sock.sendfile(file)
            except OSError:
                raise LineLostError("it is gone") from None


class DepotStore:
    """A store for a rendezvous, over a connection of its own."""

    def __init__(self, address: tuple[str, int], token: bytes) -> None:
        self._sock = _dial(address, token)

    def set(self, key: str, value: str, /) -> None:
        _ask(self._sock, {"ask": "set", "key": key, "value": value})

    def get(self, key: str, /) -> str:
        """
        Raises:
            TimeoutError: nobody has said it.
        """
        value = _ask(self._sock, {"ask": "get", "key": key, "seconds": _MEETING_SECONDS})["value"]
        if value is None:
            raise TimeoutError(f"nobody has said {key} for {_MEETING_SECONDS:.0f} s")
        return value

    def close(self) -> None:
        self._sock.close()


class DistantSlots:
    """`shm.Slots` of another machine: the same methods; a state travels when it is committed or read."""

    def __init__(self, address: tuple[str, int], token: bytes) -> None:
        self._connect: Callable[[], socket.socket] = lambda: _dial(address, token)
        self._sock: socket.socket | None = None
        self._image = bytearray()
        self.pinned: int | None = None

    def newest(self) -> Held | None:
        """The whole slot with the highest step."""
        held = self._ask({"ask": "newest"})["held"]
        return Held(*held) if held else None

    def reserve(self, length: int) -> None:
        """Provide for images of about `length` bytes, so that the first ones cost no more than the later."""
        if len(self._image) < length:
            self._image = bytearray(length + _HEADER)

    def begin(self, length: int) -> tuple[int, memoryview]:
        """Memory of `length` bytes to write to; which slot it will be, `commit` tells."""
        self.reserve(length)
        return 0, memoryview(self._image)[:length]

    def commit(self, slot: int, step: int, length: int) -> int:
        """Send it. Returns the slot."""
        request = {"ask": "write", "pinned": self.pinned, "step": step, "length": length}
        chosen = self._ask(request)["slot"]
        assert self._sock is not None
        try:
            self._sock.sendall(memoryview(self._image)[:length])
            receive_head(self._sock)
        except (OSError, LineLostError) as error:
            raise _gone(error) from None
        return chosen

    def read(self, slot: int) -> memoryview:
        """The bytes of a whole slot."""
        return self._fetch({"ask": "read", "slot": slot})

    def read_file(self, path: str) -> memoryview:
        """The bytes of a checkpoint's file."""
        return self._fetch({"ask": "file", "path": path})

    def close(self) -> None:
        """Disconnect; another request connects again."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _fetch(self, request: dict[str, Any]) -> memoryview:
        image = bytearray(self._ask(request)["length"])
        assert self._sock is not None
        try:
            receive_into(self._sock, memoryview(image))
        except LineLostError as error:
            raise _gone(error) from None
        return memoryview(image)

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        self._sock = self._sock or self._connect()
        try:
            return _ask(self._sock, request)
        except UserError:
            self.close()
            raise


def _dial(address: tuple[str, int], token: bytes) -> socket.socket:
    try:
        sock = dial(address, token, _DIAL_SECONDS)
    except LineLostError as error:
        raise UserError(
            f"{socket.gethostname()} cannot reach the machine that the run was started on, {address[0]} port "
            f"{address[1]}: {error}. Check that no firewall is between them."
        ) from None
    hold(sock)
    return sock


def _ask(sock: socket.socket, request: dict[str, Any]) -> dict[str, Any]:
    try:
        send_with(sock, request)
        return receive_head(sock)
    except LineLostError as error:
        raise _gone(error) from None


def _gone(error: Exception) -> UserError:
    return UserError(f"{socket.gethostname()} has lost the machine that the run was started on: {error}")
