"""Where processes on other hosts leave state and find each other: a server in the process of the supervisor.

Processes on the supervisor's machine share memory with it (shm/slots.py). For those elsewhere the depot writes to the
same slots, and reads from them, so that the supervisor sees no difference. It is also the store by which the members
of a gang that spans hosts connect. One thread a connection; requests are messages, state follows as bytes. The other
end is distant.py.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from pathlib import Path
from typing import Any, assert_never

from manyhands.engine.hosts.line import LineLostError, outlive, receive_head, receive_into, send_with
from manyhands.engine.hosts.messages import (
    REQUESTS,
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
from manyhands.shm import Slots
from manyhands.wire import BACKLOG, Gate, MessageError, TurnedAway, hold

_log = logging.getLogger("manyhands")
_SILENT_SECONDS = 60.0
"""A writer from which nothing comes for that long is gone."""
_WAIT_SECONDS = 600.0
"""What a client may wait for a value at most."""
_MOST_BYTES = 1 << 42
"""Of a state."""
_MOST_STEPS = 1 << 62
_LETTERS = 300
"""Of a reason."""


class Depot:
    """The server where processes on other hosts leave state and find each other.

    Args:
        token: what clients must know.
        slots: that the supervisor reads.
        files: where checkpoints are, which may be fetched; nothing else may.
    """

    def __init__(self, token: bytes, slots: tuple[int, int], files: Path) -> None:
        self._slots, self._files = slots, files.resolve()
        self._said: dict[str, str] = {}
        self._writer: tuple[socket.socket, str] | None = None
        """Who wrote last: the connection, and who is at its other end."""
        self._writing = threading.Lock()
        self._within: set[socket.socket] = set()
        self._closed = False
        self._news = threading.Condition()
        self._listener = socket.create_server(("", 0), backlog=BACKLOG)
        self.port: int = self._listener.getsockname()[1]
        self._turned_away = TurnedAway(_log.warning)
        self._gate = Gate(self._listener, token, 0, self._enter, self._turned_away, name="manyhands-depot")
        threading.Thread(target=self._gate.serve, daemon=True, name="manyhands-depot").start()

    def close(self) -> None:
        self._gate.close()
        with self._news:
            self._closed = True
            for sock in self._within:  # wakes the threads, which close what they hold
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _enter(self, sock: socket.socket, host: str, purpose: dict[str, Any]) -> None:
        with self._news:
            if self._closed:
                sock.close()
                return
            self._within.add(sock)
        try:
            hold(sock)
            outlive(sock)
            slots = Slots(self._slots)
            while True:
                self._answer(sock, slots, REQUESTS.decode(receive_head(sock)))
        except LineLostError:
            pass  # whoever it was is gone
        except (MessageError, OSError, ValueError, OverflowError, MemoryError) as error:
            self._turned_away.tell(host, error)
        finally:
            with self._news:
                self._within.discard(sock)
                sock.close()

    def _answer(self, sock: socket.socket, slots: Slots, request: Request) -> None:
        match request:
            case SetValue(key=key, value=value):
                with self._news:
                    self._said[key] = value
                    self._news.notify_all()
                send_with(sock, Done())
            case GetValue(key=key, seconds=seconds):
                if not 0 <= seconds <= _WAIT_SECONDS:
                    raise ValueError(f"a wait of {seconds} s; between 0 and {_WAIT_SECONDS:.0f} is possible")
                with self._news:
                    self._news.wait_for(lambda: key in self._said, seconds)
                    said = self._said.get(key)
                send_with(sock, Value(value=said))
            case AskNewest():
                send_with(sock, Newest(held=slots.newest()))
            case WriteState():
                self._write(sock, slots, request)
            case ReadState(slot=slot):
                _check_slot(slot)
                image = slots.read(slot)
                send_with(sock, Follows(length=len(image)), image)
            case ReadFile(path=path):
                self._file(sock, path)
            case _:
                assert_never(request)

    def _write(self, sock: socket.socket, slots: Slots, request: WriteState) -> None:
        _check(request)
        with self._news:
            former = self._writer
            replaced = request.again and former is not None and former[1] != request.writer
            if not replaced:
                self._writer = sock, request.writer
        if replaced:
            send_with(sock, Declined(error="another worker leaves the state now"))
            return
        if former is not None and former[0] is not sock:
            # Of a host that was lost: what it still sends must not get into a slot.
            with contextlib.suppress(OSError):
                former[0].shutdown(socket.SHUT_RDWR)
        with self._writing:  # who was cut off still reads what had come
            slots.pinned = request.pinned
            slot, target = slots.begin(request.length)
            send_with(sock, Granted(slot=slot))
            sock.settimeout(_SILENT_SECONDS)
            receive_into(sock, target)  # if the rest never comes, the other slot is whole
            sock.settimeout(None)
            with self._news:
                if self._writer is None or self._writer[0] is not sock:
                    raise LineLostError("another writes")
                slots.commit(slot, request.step, request.length)
        send_with(sock, Done())

    def _file(self, sock: socket.socket, name: str) -> None:
        try:
            path = Path(name).resolve()
            if not path.is_relative_to(self._files):
                raise ValueError(f"{path} is not one of the run's checkpoints")
            file = path.open("rb")
        except (OSError, ValueError) as error:
            self._turned_away.tell("a worker", error)
            send_with(sock, Declined(error=str(error)[:_LETTERS]))
            return
        with file:
            send_with(sock, Follows(length=path.stat().st_size))
            try:
                sock.sendfile(file)
            except OSError:
                raise LineLostError("it is gone") from None


def _check_slot(slot: int) -> None:
    if slot not in (0, 1):
        raise ValueError(f"there is no slot {slot}")


def _check(request: WriteState) -> None:
    """
    Raises:
        ValueError: a state is announced that cannot be.
    """
    if request.pinned is not None:
        _check_slot(request.pinned)
    if not 0 <= request.length <= _MOST_BYTES or not 0 <= request.step <= _MOST_STEPS:
        raise ValueError(f"a state of step {request.step} with {request.length} bytes cannot be")
