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
from typing import TypeVar, assert_never

from manyhands.engine.hosts.line import LineLostError, dial, receive_head, receive_into, send_with
from manyhands.engine.hosts.messages import (
    ANSWERS,
    REQUESTS,
    Answer,
    AskNewest,
    Done,
    Follows,
    GetValue,
    Granted,
    Newest,
    ReadFile,
    ReadState,
    Request,
    SetValue,
    Value,
    WriteState,
)
from manyhands.errors import UserError
from manyhands.shm import Held, Slots
from manyhands.wire import MessageError, StrangerError, admit, hold

_log = logging.getLogger("manyhands")
_HANDSHAKE_SECONDS = 10.0
_DIAL_SECONDS = 10.0
_SILENT_SECONDS = 60.0
"""A writer from which nothing comes for that long is gone."""
_HEADER = 4 << 20
"""Bytes that an image may have beyond those of its tensors."""
A = TypeVar("A", Done, Value, Newest, Granted, Follows)

_MEETING_SECONDS = 30.0
"""How long members of a gang that is being formed wait for what another has to say."""


class Depot:
    """The server where processes on other hosts leave state and find each other.

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
        try:
            with sock:
                admit(sock, self._token, 0, time.monotonic() + _HANDSHAKE_SECONDS)
                hold(sock)
                sock.settimeout(None)
                slots = Slots(self._slots)
                while True:
                    self._answer(sock, slots, REQUESTS.decode(receive_head(sock)))
        except LineLostError:
            pass  # whoever it was is gone
        except (StrangerError, MessageError, OSError, ValueError, KeyError) as error:
            _log.warning("turned away a connection from %s: %s", address, error)

    def _answer(self, sock: socket.socket, slots: Slots, request: Request) -> None:
        match request:
            case SetValue(key=key, value=value):
                with self._news:
                    self._said[key] = value
                    self._news.notify_all()
                send_with(sock, Done())
            case GetValue(key=key, seconds=seconds):
                with self._news:
                    self._news.wait_for(lambda: key in self._said, seconds)
                    said = self._said.get(key)
                send_with(sock, Value(value=said))
            case AskNewest():
                send_with(sock, Newest(held=slots.newest()))
            case WriteState():
                self._write(sock, slots, request)
            case ReadState(slot=slot):
                image = slots.read(slot)
                send_with(sock, Follows(length=len(image)), image)
            case ReadFile(path=path):
                self._file(sock, path)
            case _:
                assert_never(request)

    def _write(self, sock: socket.socket, slots: Slots, request: WriteState) -> None:
        with self._news:
            former, self._writer = self._writer, sock
        if former is not None and former is not sock:
            # Of a host that was lost: what it still sends must not get into a slot.
            with contextlib.suppress(OSError):
                former.shutdown(socket.SHUT_RDWR)
        slots.pinned = request.pinned
        slot, target = slots.begin(request.length)
        send_with(sock, Granted(slot=slot))
        sock.settimeout(_SILENT_SECONDS)
        receive_into(sock, target)  # if the rest never comes, the other slot is whole
        sock.settimeout(None)
        with self._news:
            if self._writer is not sock:
                raise LineLostError("another writes")
            slots.commit(slot, request.step, request.length)
        send_with(sock, Done())

    def _file(self, sock: socket.socket, name: str) -> None:
        path = Path(name).resolve()
        if not path.is_relative_to(self._files):
            raise ValueError(f"{path} is not one of the run's checkpoints")
        with path.open("rb") as file:
            send_with(sock, Follows(length=path.stat().st_size))
            try:
                sock.sendfile(file)
            except OSError:
                raise LineLostError("it is gone") from None


class DepotStore:
    """A store for a rendezvous, over a connection of its own."""

    def __init__(self, address: tuple[str, int], token: bytes) -> None:
        self._sock = _dial(address, token)

    def set(self, key: str, value: str, /) -> None:
        _ask(self._sock, SetValue(key=key, value=value), Done)

    def get(self, key: str, /) -> str:
        """
        Raises:
            TimeoutError: nobody has said it.
        """
        value = _ask(self._sock, GetValue(key=key, seconds=_MEETING_SECONDS), Value).value
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
        return self._ask(AskNewest(), Newest).held

    def reserve(self, length: int) -> None:
        """Provide for images of about `length` bytes, so that the first ones cost no more than the later."""
        if len(self._image) < length:
            self._image = bytearray(length + _HEADER)

    def begin(self, length: int) -> tuple[int, memoryview]:
        """Memory of `length` bytes to write to; which slot it will be, `commit` tells."""
        self.reserve(length)
        return 0, memoryview(self._image)[:length]

    def commit(self, slot: int, step: int, length: int) -> int:
        """Send the state that was written. Returns the slot."""
        chosen = self._ask(WriteState(pinned=self.pinned, step=step, length=length), Granted).slot
        assert self._sock is not None
        try:
            self._sock.sendall(memoryview(self._image)[:length])
            receive_head(self._sock)
        except (OSError, LineLostError) as error:
            raise _gone(error) from None
        return chosen

    def read(self, slot: int) -> memoryview:
        """The bytes of a whole slot."""
        return self._fetch(ReadState(slot=slot))

    def read_file(self, path: str) -> memoryview:
        """The bytes of a checkpoint's file."""
        return self._fetch(ReadFile(path=path))

    def close(self) -> None:
        """Disconnect; another request connects again."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _fetch(self, request: Request) -> memoryview:
        image = bytearray(self._ask(request, Follows).length)
        assert self._sock is not None
        try:
            receive_into(self._sock, memoryview(image))
        except LineLostError as error:
            raise _gone(error) from None
        return memoryview(image)

    def _ask(self, request: Request, answer: type[A]) -> A:
        self._sock = self._sock or self._connect()
        try:
            return _ask(self._sock, request, answer)
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


def _ask(sock: socket.socket, request: Request, answer: type[A]) -> A:
    """Put a request, and wait for the kind of answer that there is to it."""
    try:
        send_with(sock, request)
        said: Answer = ANSWERS.decode(receive_head(sock))
    except (LineLostError, MessageError) as error:
        raise _gone(error) from None
    if not isinstance(said, answer):
        raise _gone(MessageError(f"it answered {said} to {request}"))
    return said


def _gone(error: Exception) -> UserError:
    return UserError(f"{socket.gethostname()} has lost the machine that the run was started on: {error}")
