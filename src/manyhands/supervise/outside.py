"""What reaches a supervisor from outside: signals, and commands through the run directory's socket."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from manyhands.engine import Loop
from manyhands.run import COMMANDS, Answer, Command, Refused, RunDirectory, Status, Watch
from manyhands.wire import MessageError, encode


@contextmanager
def catch_signals(loop: Loop, on_signal: Callable[[signal.Signals], None], *numbers: signal.Signals) -> Iterator[None]:
    """Have the loop call `on_signal`, instead of the interpreter whatever it would do, for the given signals. In
    another thread than the main one, which alone gets signals, nothing changes; nor for a hangup that is ignored, as
    `nohup` has it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    wakeup, waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    ignored = {number for number in (signal.SIGHUP,) if signal.getsignal(number) is signal.SIG_IGN}
    heeded = [number for number in numbers if number not in ignored]
    before = {number: signal.signal(number, lambda *_: None) for number in heeded}
    previous = signal.set_wakeup_fd(waker, warn_on_full_buffer=False)

    def take() -> None:
        for number in os.read(wakeup, 64):
            if number in before:
                on_signal(signal.Signals(number))

    loop.watch(wakeup, take)
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous)
        for number, handler in before.items():
            signal.signal(number, handler)
        loop.unwatch(wakeup)
        os.close(wakeup)
        os.close(waker)


_STEP_SECONDS = 0.25
"""How often onlookers hear of steps; of anything else they hear at once."""


class Onlookers:
    """Connections that are told how the run stands whenever that changes; closed when it ends.

    One that does not listen misses what was said, and hears the next.
    """

    def __init__(self) -> None:
        self._links: list[socket.socket] = []
        self._told: Status | None = None
        self._told_at = 0.0

    def add(self, link: socket.socket) -> None:
        link.setblocking(False)
        self._links.append(link)
        self._told = None

    def tell(self, status: Callable[[], Status]) -> None:
        """Say how it stands, if that is news and somebody listens."""
        if not self._links:
            return
        now, news = time.monotonic(), status()
        if self._told is not None:
            soon = now - self._told_at < _STEP_SECONDS
            if news == self._told or (soon and _but_for_steps(news) == _but_for_steps(self._told)):
                return
        self._told, self._told_at = news, now
        data = json.dumps(encode(news)).encode()
        for link in list(self._links):
            try:
                link.send(data)
            except BlockingIOError:
                pass
            except OSError:
                self._links.remove(link)
                link.close()

    def close(self) -> None:
        for link in self._links:
            link.close()
        self._links.clear()


def _but_for_steps(status: Status) -> Status:
    return replace(status, step=0, loss=None, at=None, profile={})


@contextmanager
def serve_commands(
    loop: Loop,
    directory: RunDirectory,
    answer: Callable[[Command, Callable[[Answer], None]], None],
    onlookers: Onlookers,
) -> Iterator[None]:
    """Have the commands that `RunDirectory.ask` sends answered; who asks to `Watch` becomes an onlooker.

    Args:
        answer: gets a command, and what to call with the answer, now or later.
    """
    listener = directory.listen()

    def serve() -> None:
        connection, _ = listener.accept()
        connection.settimeout(1.0)  # a client that says nothing must not hold up the training for long
        try:
            data = json.loads(connection.recv(1 << 16) or b"null")
        except (OSError, ValueError, RecursionError):
            connection.close()
            return

        def reply(message: Answer) -> None:
            with connection, contextlib.suppress(OSError):
                connection.send(json.dumps(encode(message)).encode())

        try:
            command = COMMANDS.decode(data)
        except MessageError as error:
            reply(Refused(str(error)))
            return
        if isinstance(command, Watch):
            onlookers.add(connection)
        else:
            answer(command, reply)

    loop.watch(listener, serve)
    try:
        yield
    finally:
        loop.unwatch(listener)
        listener.close()
        directory.control.unlink(missing_ok=True)
        onlookers.close()
