"""A run's guest on another host: forks workers there as the run's supervisor orders, and passes on what they say.

Started by the agent for every run that comes, as `python -m manyhands.engine.hosts.guest FD AGENT`, FD being one end of
a `Channel`, over which it gets the connection to the supervisor, AGENT the agent's process id. It ends when that
connection does, and its workers with it. With a third argument, `spare`, it is started before a run comes, and has
torch loaded by then.

What it obeys and says is in `messages.py`.
"""

from __future__ import annotations

import signal
import socket
import sys
import time
from contextlib import suppress
from typing import NoReturn, assert_never

from manyhands.engine.channel import Channel
from manyhands.engine.engine import EngineEvent, Exited
from manyhands.engine.hosts.line import BEAT_SECONDS, Line, LineLostError
from manyhands.engine.hosts.messages import (
    LEND,
    ORDERS,
    AskClock,
    Beat,
    Clock,
    Connect,
    Declined,
    Kill,
    Open,
    Order,
    Stacks,
    Start,
    Tell,
)
from manyhands.engine.local import LocalEngine, Template
from manyhands.engine.loop import Loop
from manyhands.engine.messages import Depot, Place, Started
from manyhands.engine.process import die_with_parent
from manyhands.errors import UserError
from manyhands.shm import Board
from manyhands.wire import MessageError

_PATIENCE_SECONDS = 60.0
"""A supervisor that is stopped for that long is gone."""


_PRELOAD = "manyhands.training.entry"
"""The module that a spare guest loads: what runs will want."""


class Guest:
    """Serves one supervisor."""

    def __init__(self, line: Line, token: str, board: Board, template: Template | None) -> None:
        self._line, self._token = line, token
        self._loop, self._board, self._template = Loop(), board, template
        self._engine: LocalEngine | None = None
        self._pids: dict[int, int] = {}

    def run(self) -> None:
        """Serve the supervisor until it is gone."""
        self._loop.watch(self._line.sock, self._obey_all)
        beat = time.monotonic()
        try:
            while True:
                wait = max(0.0, beat - time.monotonic())
                if self._engine is not None:
                    self._engine.poll(wait)
                else:
                    self._loop.run_once(wait)
                if time.monotonic() >= beat:
                    beat = time.monotonic() + BEAT_SECONDS
                    self._beat()
        except (LineLostError, MessageError):
            pass  # it is gone, or no supervisor of this version: either way there is nobody to serve
        finally:
            if self._engine is not None:
                self._engine.report_to(lambda event: None)
                self._engine.close()

    def _obey_all(self) -> None:
        self._line.read()
        for message in self._line.take():
            self._obey(ORDERS.decode(message))

    def _obey(self, order: Order) -> None:
        match order:
            case AskClock():
                self._line.send(Clock(now=time.monotonic_ns()))
            case Open():
                self._open(order)
            case Start(worker=worker):
                self._start(worker)
            case Tell(worker=worker, message=message):
                self._opened.send(worker, message)
            case Connect(workers=workers, messages=messages):
                self._opened.connect(workers, messages)
            case Stacks(worker=worker):
                self._opened.stacks(worker)
            case Kill(worker=worker):
                self._opened.kill(worker)
            case _:
                assert_never(order)

    @property
    def _opened(self) -> LocalEngine:
        if self._engine is None:
            raise MessageError("an order that needs the job, before the job was loaded")
        return self._engine

    def _open(self, order: Open) -> None:
        """Load the job."""
        home = Depot(host=self._line.sock.getpeername()[0], port=order.depot, token=self._token)
        place = Place(board=self._board.descriptor, depot=home)
        try:
            self._engine = LocalEngine(order.entry, order.spec, place, self._loop, template=self._template)
            self._engine.report_to(self._pass_on)
            loaded = self._engine.open()
        except UserError as error:
            self._line.send(Declined(error=str(error)))
        except SystemExit:
            self._line.send(Declined(error="the job's flags are refused there; see the agent's output."))
        else:
            self._line.send(loaded)

    def _start(self, worker: int) -> None:
        self._board.write(worker, -1, -1, 0)
        try:
            pid = self._opened.start(worker)
        except UserError as error:
            self._line.send(Declined(error=str(error)))
            return
        self._pids[worker] = pid
        self._line.send(Started(worker=worker, pid=pid))

    def _pass_on(self, event: EngineEvent) -> None:
        if isinstance(event, Exited):
            self._pids.pop(event.worker, None)
        self._line.send(event)

    def _beat(self) -> None:
        now = time.monotonic_ns()
        rows = []
        for worker in self._pids:
            at = self._board.read(worker)
            since = max(at.since, self._opened.clogged(worker))
            rows.append((worker, at.step, at.micro_batch, at.phase, max(0, now - since)))
        self._line.send(Beat(rows=tuple(rows)))


def _end(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def main(descriptor: int, agent: int, spare: bool) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the agent decides
    signal.signal(signal.SIGTERM, _end)
    die_with_parent(agent)
    channel = Channel(socket.socket(fileno=descriptor))
    board = Board()
    template = Template((board.descriptor,), _PRELOAD) if spare else None
    received = channel.receive()
    if received is None:
        return
    sock = socket.socket(fileno=received[1][0])
    Guest(Line(sock, _PATIENCE_SECONDS), LEND.decode(received[0]).token, board, template).run()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):  # the agent ends it
        main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:] == ["spare"])
