"""Processes that form one group and wait, without using a processor, until they are told what to do.

Several fleets, one for each backend, stay alive side by side and are asked in turn: what the machine does meanwhile
then meets all of them alike. Requests and answers are lines of JSON over a Unix socket, whose file is reachable from
every host of a lab too.
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from manyhands.errors import UserError

if TYPE_CHECKING:
    from manyhands.lab import Lab

Launch = Callable[[list[str], IO[bytes]], Sequence[subprocess.Popen[Any]]]
"""Starts the ranks: (their command, where their output goes) -> processes."""
_LEAVE = 10.0
_PORT = 29500


def local(world: int, environment: Mapping[str, str] | None = None) -> Launch:
    """Starts that many ranks on this machine."""

    def launch(command: list[str], output: IO[bytes]) -> list[subprocess.Popen[Any]]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        shared = {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1"}
        shared |= {"MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", **(environment or {})}
        return [
            subprocess.Popen(
                command,
                env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
            for rank in range(world)
        ]

    return launch


def in_lab(lab: Lab, number: int = 0, environment: Mapping[str, str] | None = None) -> Launch:
    """Starts a rank on every node of a lab that holds data. Fleets in the same lab need different numbers."""

    def launch(command: list[str], output: IO[bytes]) -> list[subprocess.Popen[Any]]:
        own = {"MASTER_PORT": str(_PORT + number), "GLOO_SOCKET_IFNAME": "host", "OMP_NUM_THREADS": "1"}
        pipes = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output}
        return list(lab.run_all(command, {**own, **(environment or {})}, **pipes))

    return launch


class Fleet:
    """Ranks that wait to be told what to do.

    Args:
        name: what they are, for messages.
        world: how many.
        launch: starts them.
        command: of a rank; "--address PATH" is appended.
        deadline: seconds until all of them are there, and for every answer.

    Raises:
        UserError: one of them failed, or does not answer.
    """

    def __init__(
        self, name: str, world: int, launch: Launch, command: Sequence[str] = (), deadline: float = 120.0
    ) -> None:
        self.name, self.world, self.deadline = name, world, deadline
        self._folder = tempfile.TemporaryDirectory(prefix="manyhands-bench-")
        self._log = Path(self._folder.name) / "log"
        self._streams: dict[int, IO[str]] = {}
        self._processes: Sequence[subprocess.Popen[Any]] = []
        self.hello: list[dict[str, Any]] = []
        """What each rank said of itself when it was ready."""
        address = str(Path(self._folder.name) / "socket")
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener, self._log.open("wb") as output:
                listener.bind(address)
                listener.listen(world)
                self._processes = launch([*(command or torch_rank(name)), "--address", address], output)
                self._greet(listener)
        except BaseException:
            self.close()
            raise

    def _greet(self, listener: socket.socket) -> None:
        end = time.monotonic() + self.deadline
        ended = [os.pidfd_open(process.pid) for process in self._processes]
        said: dict[int, dict[str, Any]] = {}
        try:
            while len(said) < self.world:
                ready, _, _ = select.select([listener, *ended], [], [], max(0.0, end - time.monotonic()))
                if listener not in ready:
                    raise self._failure("did not all come up")
                connection, _ = listener.accept()
                connection.settimeout(self.deadline)
                stream = connection.makefile("rw")
                connection.close()  # the stream keeps it open
                hello = json.loads(stream.readline() or "{}")
                if "rank" not in hello:
                    raise self._failure("did not all come up")
                said[hello["rank"]] = hello
                self._streams[hello["rank"]] = stream
        finally:
            for descriptor in ended:
                os.close(descriptor)
        self.hello = [said[rank] for rank in sorted(said)]

    def ask(self, what: str, **arguments: Any) -> list[Any]:
        """Have all ranks do something; their answers in rank order.

        Raises:
            UserError: a rank failed or did not answer in time.
        """
        request = json.dumps({"what": what, **arguments}) + "\n"
        try:
            for stream in self._streams.values():
                stream.write(request)
                stream.flush()
            answers = [json.loads(self._streams[rank].readline() or "{}") for rank in sorted(self._streams)]
        except (OSError, ValueError):
            raise self._failure(f"stopped in {what} {arguments}") from None
        for answer in answers:
            if "answer" not in answer:
                raise self._failure(f"failed in {what} {arguments}")
        return [answer["answer"] for answer in answers]

    def _failure(self, what: str) -> UserError:
        lines = self._log.read_text(errors="replace").splitlines()[-15:]
        return UserError(f"the ranks of {self.name} {what}. They said:\n" + ("\n".join(lines) or "(nothing)"))

    def close(self) -> None:
        """Let the ranks go."""
        for stream in self._streams.values():
            try:
                stream.close()
            except OSError:
                pass  # it is gone
        end = time.monotonic() + _LEAVE
        for process in self._processes:
            try:
                process.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._folder.cleanup()

    def __enter__(self) -> Fleet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def torch_rank(backend: str) -> list[str]:
    """The command of a rank of a torch.distributed backend."""
    return [sys.executable, "-m", "manyhands.bench.rank", "--backend", backend]
