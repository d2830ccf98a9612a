"""Another host as the supervisor sees it: a connection to a guest there (guest.py)."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Sequence
from typing import TypeVar, assert_never

from manyhands.engine.engine import EngineEvent, Exited, Printed, Said
from manyhands.engine.hosts.line import BEAT_SECONDS, Line, LineLostError, dial
from manyhands.engine.hosts.messages import (
    REPORTS,
    AskClock,
    Beat,
    Clock,
    Connect,
    Declined,
    Kill,
    Open,
    Order,
    Report,
    Stacks,
    Start,
    Tell,
)
from manyhands.engine.loop import Loop
from manyhands.engine.messages import Loaded, Started
from manyhands.errors import UserError
from manyhands.shm import Board
from manyhands.wire import MessageError, encode

REACH_SECONDS = 4.0
"""A host that does not answer in this time is not there."""
_SILENT_SECONDS = 20 * BEAT_SECONDS
_GUEST_SECONDS = 30.0
"""What a busy machine may take to start a guest."""
_LOAD_SECONDS = 1800.0
_FORK_SECONDS = 60.0
_CLOCK_ROUNDS = 8

A = TypeVar("A", Clock, Loaded, Started)


class RemoteHost:
    """One host. All methods but `reach` and `load` do nothing when it is lost: `Exited` events say so.

    Args:
        name: as the user wrote it.
        address: of its agent.
        token: what the agent must know.
        loop: calls back when it says something.
        board: where its workers' whereabouts are written.
        on_event: takes what its workers say.
    """

    def __init__(
        self,
        name: str,
        address: tuple[str, int],
        token: bytes,
        loop: Loop,
        board: Board,
        on_event: Callable[[EngineEvent], None],
    ) -> None:
        self.name = name
        self._address, self._token = address, token
        self._loop, self._board, self._on_event = loop, board, on_event
        self._line: Line | None = None
        self._heard = 0.0
        self._workers: set[int] = set()
        self._early: list[Report] = []
        self.clock = 0
        """What to add to the host's monotonic clock for this machine's, in ns."""
        self.loaded = Loaded()
        """What the entry found on the host."""

    @property
    def lost(self) -> bool:
        return self._line is None

    def reach(self) -> None:
        """Connect to the host.

        Raises:
            UserError: it is not there.
        """
        try:
            self._line = Line(dial(self._address, self._token, REACH_SECONDS), _SILENT_SECONDS)
        except LineLostError as error:
            host, port = self._address
            raise UserError(
                f"host {self.name} is not to be reached at {host} port {port}: {error}. Is `manyhands agent` running "
                "there, with the same token as here?"
            ) from None
        try:
            self._set_clock(self._line)
        except LineLostError as error:
            self.close()
            raise UserError(f"host {self.name} is there, but does not answer: {error}.") from None

    def _set_clock(self, line: Line) -> None:
        """The difference of the clocks, by the quickest of a few answers."""
        best = float("inf")
        for _ in range(_CLOCK_ROUNDS):
            began = time.monotonic_ns()
            line.send(AskClock())
            told = _wait_for(line, Clock, _GUEST_SECONDS, self._early)
            assert isinstance(told, Clock)
            ended = time.monotonic_ns()
            if ended - began < best:
                best, self.clock = ended - began, (began + ended) // 2 - told.now

    def ask_to_load(self, entry: str, spec: object, depot: int) -> None:
        """Have the host load the job, whose depot has this port; `load` waits for that."""
        self._send(Open(entry=entry, spec=spec, depot=depot))

    def load(self) -> None:
        """
        Raises:
            UserError: it cannot load the job.
        """
        self.loaded = self._answer(Loaded, _LOAD_SECONDS)
        assert self._line is not None
        self._loop.watch(self._line.sock, self._hear)

    def start(self, worker: int) -> int:
        """
        Raises:
            UserError: it cannot, or is lost.
        """
        self._send(Start(worker=worker))
        pid = self._answer(Started, _LOAD_SECONDS + _FORK_SECONDS).pid  # it may have to load the job again
        self._workers.add(worker)
        return pid

    def send(self, worker: int, message: object) -> None:
        if worker in self._workers:
            self._send(Tell(worker=worker, message=encode(message)))

    def connect(self, workers: Sequence[int], messages: Sequence[object]) -> None:
        self._send(Connect(workers=tuple(workers), messages=tuple(map(encode, messages))))

    def stacks(self, worker: int) -> None:
        self._send(Stacks(worker=worker))

    def kill(self, worker: int) -> None:
        self._send(Kill(worker=worker))

    def look(self) -> None:
        """Hear some of what was said meanwhile, and notice a host that has fallen silent."""
        if self._line is not None and select.select([self._line.sock], [], [], 0)[0]:
            self._hear()
        self._deliver()
        if self._line is not None and time.monotonic() - self._heard > _SILENT_SECONDS:
            self._lose()

    def close(self) -> None:
        """Let the host go; its guest ends its workers."""
        if self._line is not None:
            self._loop.unwatch(self._line.sock)
            self._line.close()
            self._line = None
        self._workers.clear()

    def _send(self, order: Order) -> None:
        if self._line is not None:
            try:
                self._line.send(order)
            except LineLostError:
                pass  # who reads will notice

    def _answer(self, kind: type[A], seconds: float) -> A:
        try:
            if self._line is None:
                raise LineLostError("it is lost")
            answer = _wait_for(self._line, kind, seconds, self._early)
        except LineLostError as error:
            self._lose()
            raise UserError(f"host {self.name} is lost: {error}") from None
        self._heard = time.monotonic()
        if isinstance(answer, Declined):
            raise UserError(f"host {self.name}: {answer.error}")
        return answer

    def _hear(self) -> None:
        assert self._line is not None
        try:
            self._line.read()
            self._early += map(REPORTS.decode, self._line.take())
        except (LineLostError, MessageError):
            self._lose()
            return
        self._deliver()

    def _deliver(self) -> None:
        early, self._early = self._early, []
        if early:
            self._heard = time.monotonic()
        for report in early:
            self._take(report)

    def _take(self, report: Report) -> None:
        match report:
            case Said() | Printed():
                self._on_event(report)
            case Exited(worker):
                self._workers.discard(worker)
                self._on_event(report)
            case Beat(rows=rows):
                for worker, step, micro_batch, phase, age in rows:
                    self._board.write(worker, step, micro_batch, phase, age)
            case Clock() | Loaded() | Started() | Declined():
                pass  # an answer that nobody waits for any more
            case _:
                assert_never(report)

    def _lose(self) -> None:
        """The host is gone, and all its workers with it."""
        workers = sorted(self._workers)
        self.close()
        self._deliver()
        for worker in workers:
            self._on_event(Exited(worker, None))


def _wait_for(line: Line, kind: type[A], seconds: float, others: list[Report]) -> A | Declined:
    """The next report of a kind, or that the guest declines; others are kept.

    Raises:
        LineLostError: the host is gone.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            report: Report = REPORTS.decode(line.receive(max(0.0, deadline - time.monotonic())))
        except MessageError as error:
            raise LineLostError(f"it said what nobody understands: {error}") from None
        if isinstance(report, kind | Declined):
            return report
        others.append(report)
