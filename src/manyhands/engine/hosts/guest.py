"""A run's guest on another host: forks workers there as the run's supervisor orders, and passes on what they say.

Started by the agent for every run that comes, as `python -m manyhands.engine.hosts.guest FD AGENT`, FD being one end of
a `Channel`, over which it gets the connection to the supervisor, AGENT the agent's process id. It ends when that
connection does, and its workers with it. With a third argument, `spare`, it is started before a run comes, and has
torch loaded by then.

Says to the supervisor: `clock`, `ready`, `refused`, `started`, `said`, `printed`, `exited`, `beat`.
Obeys: `clock`, `open`, `start`, `send`, `connect`, `stacks`, `kill`.
"""

from __future__ import annotations

import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from manyhands.engine.channel import Channel, Message
from manyhands.engine.engine import EngineEvent, Exited, Printed, Said
from manyhands.engine.hosts.line import BEAT_SECONDS, Line, LineLostError
from manyhands.engine.local import LocalEngine, Template
from manyhands.engine.loop import Loop
from manyhands.engine.process import die_with_parent
from manyhands.errors import UserError
from manyhands.shm import Board

_PATIENCE_SECONDS = 60.0
"""A supervisor that is stopped for that long is gone."""


_PRELOAD = "manyhands.train.worker"
"""What runs will want."""


class Guest:
    """Serves one supervisor."""

    def __init__(self, line: Line, token: bytes, board: Board, template: Template | None) -> None:
        self._line, self._token = line, token
        self._loop, self._board, self._template = Loop(), board, template
        self._engine: LocalEngine | None = None
        self._pids: dict[int, int] = {}

    def run(self) -> None:
        """Until the supervisor is gone."""
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
        except LineLostError:
            pass
        finally:
            if self._engine is not None:
                self._engine.close()

    def _obey_all(self) -> None:
        self._line.read()
        for order in self._line.take():
            self._obey(order)

    def _obey(self, order: Message) -> None:
        if order["order"] == "clock":
            self._line.send({"say": "clock", "now": time.monotonic_ns()})
            return
        if order["order"] == "open":
            self._open(order)
            return
        engine = self._engine
        assert engine is not None
        match order["order"]:
            case "start":
                self._board.write(order["worker"], -1, -1, 0)
                try:
                    pid = engine.start(order["worker"])
                except UserError as error:
                    self._line.send({"say": "refused", "error": str(error)})
                    return
                self._pids[order["worker"]] = pid
                self._line.send({"say": "started", "worker": order["worker"], "pid": pid})
            case "send":
                engine.send(order["worker"], order["message"])
            case "connect":
                engine.connect(order["workers"], order["messages"])
            case "stacks":
                engine.stacks(order["worker"])
            case "kill":
                engine.kill(order["worker"])

    def _open(self, order: Message) -> None:
        """Load the job."""
        try:
            spec, inherit = self._spec(order["spec"]), (self._board.descriptor,)
            self._engine = LocalEngine(order["entry"], spec, self._loop, inherit, self._template)
            facts = self._engine.open(self._pass_on).facts
        except UserError as error:
            self._line.send({"say": "refused", "error": str(error)})
        except SystemExit:
            self._line.send({"say": "refused", "error": "the job's flags are refused there; see the agent's output."})
        else:
            self._line.send({"say": "ready", "facts": dict(facts)})

    def _spec(self, spec: dict[str, Any]) -> dict[str, Any]:
        """What the entry gets here.

        Raises:
            UserError: this host has not what the run needs.
        """
        for path in (Path(spec["cwd"]), Path(spec["job_file"])):
            if not path.exists():
                raise UserError(f"there is no {path}. The job's files have to be in the same place on every host.")
        home = {"host": self._line.sock.getpeername()[0], "token": self._token.decode()}
        here = {"board": self._board.descriptor, "slots": None, "tables": None}
        return spec | here | {"depot": spec["depot"] | home}

    def _pass_on(self, event: EngineEvent) -> None:
        match event:
            case Said(worker, message):
                self._line.send({"say": "said", "worker": worker, "message": message})
            case Printed(worker, line):
                self._line.send({"say": "printed", "worker": worker, "line": line})
            case Exited(worker, status):
                self._pids.pop(worker, None)
                self._line.send({"say": "exited", "worker": worker, "status": status})

    def _beat(self) -> None:
        now = time.monotonic_ns()
        places = [(worker, self._board.read(worker)) for worker in self._pids]
        rows = [[worker, at.step, at.micro_batch, at.phase, now - at.since] for worker, at in places]
        self._line.send({"say": "beat", "rows": rows})


def main(descriptor: int, agent: int, spare: bool) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the agent decides
    die_with_parent(agent)
    channel = Channel(socket.socket(fileno=descriptor))
    board = Board()
    template = Template((board.descriptor,), _PRELOAD) if spare else None
    received = channel.receive()
    if received is None:
        return
    message, descriptors = received
    sock = socket.socket(fileno=descriptors[0])
    Guest(Line(sock, _PATIENCE_SECONDS), message["token"].encode(), board, template).run()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:] == ["spare"])
