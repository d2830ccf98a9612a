"""The depot (depot.py) as processes on other hosts see it: a store to find each other by, and slots for state.

A connection breaks now and then: a firewall forgets it, a router restarts. So it is made again, for some seconds, and
what was asked is asked again. That is safe: reading changes nothing, a value that is set twice is the same, and a state
goes to the slot that is not the newest whole one. A writer who repeats itself says so (`WriteState.again`), because
another may have taken its place meanwhile.
"""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Callable
from typing import TypeVar

from manyhands.engine.hosts.line import LineLostError, dial, outlive, receive_head, receive_into, send_with
from manyhands.engine.hosts.messages import (
    ANSWERS,
    Answer,
    AskNewest,
    Declined,
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
from manyhands.shm import Held
from manyhands.wire import MessageError, hold

_DIAL_SECONDS = 10.0
_AGAIN_SECONDS = 10.0
"""How long a connection that broke is made again and again."""
_PAUSE_SECONDS = 0.25
_HEADER = 4 << 20
"""Bytes that an image may have beyond those of its tensors."""
_MEETING_SECONDS = 30.0
"""How long members of a gang that is being formed wait for what another has to say."""
_MOST_BYTES = 1 << 42
"""Of a state."""
A = TypeVar("A", Done, Value, Newest, Granted, Follows)
R = TypeVar("R")


class DepotLostError(UserError):
    """The machine that the run was started on is not to be reached from here any more."""


class _UnreachableError(DepotLostError):
    """It cannot be connected to."""


class _DeclinedError(UserError):
    """It does not do what it was asked for."""


class _Depot:
    """A connection to the depot that is made when it is needed, and again when it breaks."""

    def __init__(self, address: tuple[str, int], token: bytes) -> None:
        self._connect: Callable[[], socket.socket] = lambda: _dial(address, token)
        self._sock: socket.socket | None = None

    def close(self) -> None:
        """Disconnect; another request connects again."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _with(self, talk: Callable[[socket.socket, bool], R]) -> R:
        """Have a conversation with the depot: from its beginning once more when the connection breaks.

        Args:
            talk: is given the connection, and whether this is not the first time.

        Raises:
            DepotLostError: for some seconds it did not come to an end.
        """
        deadline, again = time.monotonic() + _AGAIN_SECONDS, False
        while True:
            try:
                self._sock = self._sock or self._connect()
                return talk(self._sock, again)
            except (LineLostError, MessageError, OSError, _UnreachableError) as error:
                self.close()
                first = isinstance(error, _UnreachableError) and not again
                if first or time.monotonic() > deadline:
                    raise error if isinstance(error, DepotLostError) else _gone(error) from None
            except BaseException:
                self.close()  # in the middle of a conversation
                raise
            again = True
            time.sleep(_PAUSE_SECONDS)

    def _ask(self, request: Request, answer: type[A]) -> A:
        return self._with(lambda sock, _: _ask(sock, request, answer))


class DepotStore(_Depot):
    """A store for a rendezvous."""

    def __init__(self, address: tuple[str, int], token: bytes) -> None:
        super().__init__(address, token)
        self._sock = self._connect()

    def set(self, key: str, value: str, /) -> None:
        self._ask(SetValue(key=key, value=value), Done)

    def get(self, key: str, /) -> str:
        """
        Raises:
            TimeoutError: nobody has said it.
        """
        value = self._ask(GetValue(key=key, seconds=_MEETING_SECONDS), Value).value
        if value is None:
            raise TimeoutError(f"nobody has said {key} for {_MEETING_SECONDS:.0f} s")
        return value


class DistantSlots(_Depot):
    """`shm.Slots` of another machine: the same methods; a state travels when it is committed or read."""

    def __init__(self, address: tuple[str, int], token: bytes) -> None:
        super().__init__(address, token)
        self._name = secrets.token_hex(8)
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
        image = memoryview(self._image)[:length]

        def send(sock: socket.socket, again: bool) -> int:
            request = WriteState(pinned=self.pinned, step=step, length=length, writer=self._name, again=again)
            try:
                chosen = _ask(sock, request, Granted).slot
            except _DeclinedError as error:
                raise _gone(error) from None
            sock.sendall(image)
            receive_head(sock)
            return chosen

        return self._with(send)

    def read(self, slot: int) -> memoryview:
        """The bytes of a whole slot."""
        return self._fetch(ReadState(slot=slot))

    def read_file(self, path: str) -> memoryview:
        """The bytes of a checkpoint's file."""
        return self._fetch(ReadFile(path=path))

    def _fetch(self, request: Request) -> memoryview:
        def fetch(sock: socket.socket, _: bool) -> memoryview:
            length = _ask(sock, request, Follows).length
            if not 0 <= length <= _MOST_BYTES:
                raise MessageError(f"a state of {length} bytes cannot be")
            image = bytearray(length)
            receive_into(sock, memoryview(image))
            return memoryview(image)

        return self._with(fetch)


def _dial(address: tuple[str, int], token: bytes) -> socket.socket:
    try:
        sock = dial(address, token, _DIAL_SECONDS)
    except LineLostError as error:
        raise _UnreachableError(
            f"{socket.gethostname()} cannot reach the machine that the run was started on, {address[0]} port "
            f"{address[1]}: {error}. Check that no firewall is between them."
        ) from None
    hold(sock)
    outlive(sock)
    return sock


def _ask(sock: socket.socket, request: Request, answer: type[A]) -> A:
    """Put a request, and wait for the kind of answer that there is to it.

    Raises:
        LineLostError: the connection broke.
        MessageError: it answered something else.
        _DeclinedError: it declines.
    """
    send_with(sock, request)
    said: Answer = ANSWERS.decode(receive_head(sock))
    if isinstance(said, Declined):
        raise _DeclinedError(f"the machine that the run was started on refuses: {said.error}")
    if not isinstance(said, answer):
        raise MessageError(f"it answered {said} to {request}")
    return said


def _gone(error: Exception) -> DepotLostError:
    return DepotLostError(f"{socket.gethostname()} has lost the machine that the run was started on: {error}")
