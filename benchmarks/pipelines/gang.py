"""Forked workers that hold one side of a comparison and take a step when they are asked: so several sides stay alive
and can be timed in turn."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import socket
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, Protocol

import torch

from manyhands.engine.process import die_with_parent
from manyhands.transport.interpreter import library

DEADLINE = 120.0
Sockets = Sequence[socket.socket | None]


class Side(Protocol):
    """What a worker holds."""

    def steps(self, count: int) -> list[Any]:
        """Take so many; what each took on this rank, as the part that asks wants it."""
        ...


class Gang:
    """`world` processes, each with what `make(rank, sockets)` gives it.

    Args:
        make: called in the worker, with Unix sockets to the others, which need not be used.

    Raises:
        RuntimeError: a worker failed; the text is its trace.
    """

    def __init__(self, world: int, make: Callable[[int, Sockets], Any]) -> None:
        prepare()
        ends: list[list[socket.socket | None]] = [[None] * world for _ in range(world)]
        for a in range(world):
            for b in range(a + 1, world):
                ends[a][b], ends[b][a] = socket.socketpair()
        self._links: list[Connection] = []
        self._pids: list[int] = []
        sys.stdout.flush()
        parent = os.getpid()
        for rank in range(world):
            here, there = Pipe()
            pid = os.fork()
            if not pid:
                _serve(parent, there, rank, make, ends)
            there.close()
            self._links.append(here)
            self._pids.append(pid)
        for sock in (sock for row in ends for sock in row if sock is not None):
            sock.close()
        self._answers("the start")

    def ask(self, order: str, *arguments: Any) -> list[Any]:
        """Call a method of every worker's side; what each gave, by rank."""
        for link in self._links:
            link.send((order, arguments))
        return self._answers(order)

    def close(self) -> None:
        for link, pid in zip(self._links, self._pids, strict=True):
            link.close()
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self._links, self._pids = [], []

    def __enter__(self) -> Gang:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _answers(self, order: str) -> list[Any]:
        answers: dict[int, Any] = {}
        while len(answers) < len(self._links):
            waiting = [link for rank, link in enumerate(self._links) if rank not in answers]
            ready = wait(waiting, DEADLINE)
            if not ready:
                self.close()
                raise RuntimeError(f"{order}: no answer within {DEADLINE:g} s")
            for link in ready:
                rank = self._links.index(link)  # type: ignore[arg-type]
                kind, answers[rank] = link.recv()  # type: ignore[union-attr]
                if kind == "error":
                    self.close()
                    raise RuntimeError(f"{order}, rank {rank}:\n{answers[rank]}")
        return [answers[rank] for rank in range(len(self._links))]


def prepare() -> None:
    """Import and compile before the first fork what every worker needs."""
    torch.set_num_threads(1)
    for name in ("torch._dynamo", "torch.distributed.pipelining", "manyhands.training.steps.parts"):
        importlib.import_module(name)
    library()


def step_seconds(gang: Gang, count: int) -> list[float]:
    """Of so many steps in a row, where each rank says how long each took it: that of the slowest rank."""
    return [max(ranks) for ranks in zip(*gang.ask("steps", count), strict=True)]


def in_turn(gangs: Mapping[str, Gang], rounds: int, steps: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Seconds per step of every side, each the median of `steps` in a row, for so many rounds. Sides alternate, and
    every other round goes through them backwards. Who runs this with real-time priority, on a machine that others use,
    leaves it to them after each turn for as long as the turn was."""
    shares = os.sched_getscheduler(0) != os.SCHED_OTHER
    seconds: dict[str, list[float]] = {side: [] for side in gangs}
    for gang in gangs.values():
        step_seconds(gang, warm_up)
    for number in range(rounds):
        for side in list(gangs)[:: -1 if number % 2 else 1]:
            found = step_seconds(gangs[side], steps)
            seconds[side].append(statistics.median(found))
            time.sleep(sum(found) if shares else 0.0)
    return seconds


@contextlib.contextmanager
def gangs_of(sides: Mapping[str, tuple[int, Callable[[int, Sockets], Any]]]) -> Iterator[dict[str, Gang]]:
    """Gangs by the names of the sides, each `(world, make)`."""
    with contextlib.ExitStack() as opened:
        yield {name: opened.enter_context(Gang(world, make)) for name, (world, make) in sides.items()}


def _serve(
    parent: int, link: Connection, rank: int, make: Callable[[int, Sockets], Any], ends: list[list[Any]]
) -> None:
    """A worker's life. Never returns."""
    try:
        die_with_parent(parent)
        for other, row in enumerate(ends):
            for sock in row if other != rank else []:
                if sock is not None:
                    sock.close()
        try:
            side = make(rank, ends[rank])
            link.send(("made", None))
            while True:
                order, arguments = link.recv()
                link.send(("result", getattr(side, order)(*arguments)))
        except EOFError:
            pass
        except BaseException:
            link.send(("error", traceback.format_exc()))
    finally:
        os._exit(0)
