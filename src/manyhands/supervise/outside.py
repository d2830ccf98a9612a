"""What reaches a supervisor from outside: signals, and commands through the run directory's socket."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from manyhands.engine import Loop
from manyhands.run import RunDirectory


@contextmanager
def catch_signals(loop: Loop, on_signal: Callable[[signal.Signals], None], *numbers: signal.Signals) -> Iterator[None]:
    """Have the loop call `on_signal`, instead of the interpreter whatever it would do, for the given signals."""
    wakeup, waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
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


@contextmanager
def serve_commands(
    loop: Loop, directory: RunDirectory, answer: Callable[[dict[str, Any]], dict[str, Any]]
) -> Iterator[None]:
    """Answer the commands that `RunDirectory.ask` sends."""
    listener = directory.listen()

    def serve() -> None:
        connection, _ = listener.accept()
        connection.settimeout(1.0)  # a client that says nothing must not hold up the training for long
        with connection:
            try:
                request = json.loads(connection.recv(1 << 16) or b"{}")
                reply = answer(request) if isinstance(request, dict) else {"error": "a command is a JSON object"}
                connection.send(json.dumps(reply).encode())
            except (OSError, ValueError):
                pass

    loop.watch(listener, serve)
    try:
        yield
    finally:
        loop.unwatch(listener)
        listener.close()
        directory.control.unlink(missing_ok=True)
