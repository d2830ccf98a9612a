"""Another host as the supervisor sees it: a connection to a guest there (guest.py)."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from manyhands.engine.channel import Message
from manyhands.engine.engine import EngineEvent, Exited, Printed, Said
from manyhands.engine.hosts.line import BEAT_SECONDS, Line, LineLostError, dial
from manyhands.engine.loop import Loop
from manyhands.errors import UserError
from manyhands.shm import Board

REACH_SECONDS = 4.0
"""A host that does not answer in this time is not there."""
_SILENT_SECONDS = 20 * BEAT_SECONDS
_GUEST_SECONDS = 30.0
"""What a busy machine may take to start a guest."""
_LOAD_SECONDS = 1800.0
_FORK_SECONDS = 60.0
_CLOCK_ROUNDS = 8


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
        self._early: list[Message] = []
        self.clock = 0
        """What to add to its monotonic clock for this machine's, in ns."""
        self.facts: dict[str, Any] = {}

    @property
    def lost(self) -> bool:
        return self._line is None

    def reach(self) -> None:
        """Connect.

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
            line.send({"order": "clock"})
            told = _wait_for(line, "clock", _GUEST_SECONDS, self._early)["now"]
            ended = time.monotonic_ns()
            if ended - began < best:
                best, self.clock = ended - began, (began + ended) // 2 - told

    def ask_to_load(self, entry: str, spec: Mapping[str, Any]) -> None:
        """Have it load the job; `load` waits for that."""
        self._send({"order": "open", "entry": entry, "spec": dict(spec)})

    def load(self) -> None:
        """
        Raises:
            UserError: it cannot load the job.
        """
        self.facts = self._answer("ready", _LOAD_SECONDS)["facts"]
        assert self._line is not None
        self._loop.watch(self._line.sock, self._hear)

    def start(self, worker: int) -> int:
        """
        Raises:
            UserError: it cannot, or is lost.
        """
        self._send({"order": "start", "worker": worker})
        pid = self._answer("started", _LOAD_SECONDS + _FORK_SECONDS)["pid"]  # it may have to load the job again
        self._workers.add(worker)
        return pid

    def send(self, worker: int, message: Message) -> None:
        if worker in self._workers:
            self._send({"order": "send", "worker": worker, "message": message})

    def connect(self, workers: Sequence[int], messages: Sequence[Message]) -> None:
        self._send({"order": "connect", "workers": list(workers), "messages": list(messages)})

    def stacks(self, worker: int) -> None:
        self._send({"order": "stacks", "worker": worker})

    def kill(self, worker: int) -> None:
        self._send({"order": "kill", "worker": worker})

    def look(self) -> None:
        """Hear what was said meanwhile, and notice a host that has fallen silent."""
        while self._line is not None and select.select([self._line.sock], [], [], 0)[0]:
            self._hear()
        self._deliver()
        if self._line is not None and time.monotonic() - self._heard > _SILENT_SECONDS:
            self._lose()

    def close(self) -> None:
        """Let it go; its guest ends its workers."""
        if self._line is not None:
            self._loop.unwatch(self._line.sock)
            self._line.close()
            self._line = None
        self._workers.clear()

    def _send(self, order: Message) -> None:
        if self._line is not None:
            try:
                self._line.send(order)
            except LineLostError:
                pass  # who reads will notice

    def _answer(self, say: str, seconds: float) -> Message:
        try:
            if self._line is None:
                raise LineLostError("it is lost")
            answer = _wait_for(self._line, say, seconds, self._early)
        except LineLostError as error:
            self._lose()
            raise UserError(f"host {self.name} is lost: {error}") from None
        self._heard = time.monotonic()
        if answer["say"] == "refused":
            raise UserError(f"host {self.name}: {answer['error']}")
        return answer

    def _hear(self) -> None:
        assert self._line is not None
        try:
            self._line.read()
        except LineLostError:
            self._lose()
            return
        self._early += self._line.take()
        self._deliver()

    def _deliver(self) -> None:
        early, self._early = self._early, []
        if early:
            self._heard = time.monotonic()
        for message in early:
            self._take(message)

    def _take(self, message: Message) -> None:
        match message["say"]:
            case "said":
                self._on_event(Said(message["worker"], message["message"]))
            case "printed":
                self._on_event(Printed(message["worker"], message["line"]))
            case "exited":
                self._workers.discard(message["worker"])
                self._on_event(Exited(message["worker"], message["status"]))
            case "beat":
                for worker, step, micro_batch, phase, age in message["rows"]:
                    self._board.write(worker, step, micro_batch, phase, age)

    def _lose(self) -> None:
        """The host is gone, and all its workers with it."""
        workers = sorted(self._workers)
        self.close()
        self._deliver()
        for worker in workers:
            self._on_event(Exited(worker, None))


def _wait_for(line: Line, say: str, seconds: float, others: list[Message]) -> Message:
    """The next message of a kind, or a refusal; others are kept.

    Raises:
        LineLostError: the host is gone.
    """
    deadline = time.monotonic() + seconds
    while True:
        message = line.receive(max(0.0, deadline - time.monotonic()))
        if message["say"] in (say, "refused"):
            return message
        others.append(message)
