"""The engine of several machines: a `LocalEngine` here, and one behind an agent on every other host."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from manyhands.engine.engine import HERE, EngineEvent, Exited
from manyhands.engine.hosts.depot import Depot
from manyhands.engine.hosts.remote import RemoteHost
from manyhands.engine.local import LocalEngine
from manyhands.engine.loop import Loop
from manyhands.engine.messages import Linking, Loaded, Meeting
from manyhands.errors import UserError
from manyhands.shm import Board

_LOOK_SECONDS = 2.0


class HostsEngine:
    """Runs workers here and elsewhere.

    Members of a gang that are on one host are joined by sockets of that host, as by `LocalEngine`; a gang that spans
    hosts gets, instead of sockets, a `Meeting` at the depot.

    Args:
        here: the engine of this machine; not opened yet.
        hosts: names and addresses of the agents to begin with.
        token: what they know.
        depot: where workers of different hosts meet.
        entry, spec: as of `LocalEngine`.
        loop, board: the supervisor's.
        only_there: nothing is to run here to begin with, so the job need not be loaded here.
    """

    def __init__(
        self,
        here: LocalEngine,
        hosts: Mapping[str, tuple[str, int]],
        token: bytes,
        depot: Depot,
        entry: str,
        spec: object,
        loop: Loop,
        board: Board,
        only_there: bool = False,
    ) -> None:
        self._only_there = only_there
        self._here, self._addresses, self._token, self._depot = here, dict(hosts), token, depot
        self._entry, self._spec, self._loop, self._board = entry, spec, loop, board
        self._hosts: dict[str, RemoteHost] = {}
        self._host_of: dict[int, str] = {}
        self._on_event: Callable[[EngineEvent], None] = lambda event: None
        self._loaded: Loaded | None = None
        """What the entry found, where it was loaded first."""
        self._meetings = 0
        here.report_to(self._take)

    def report_to(self, on_event: Callable[[EngineEvent], None]) -> None:
        self._on_event = on_event

    def open(self) -> Loaded:
        reached = self._reach(self._addresses)  # before what takes seconds
        for host in reached:
            host.ask_to_load(self._entry, self._spec, self._depot.port)
        if not self._only_there:
            self._loaded = self._here.open()
        try:
            self._load(reached)
        except UserError:
            if self._only_there:
                self._here.open()  # if it is the job that is wrong, this says what
            raise
        assert self._loaded is not None
        return replace(self._loaded, cuda_devices=self.reach({}))

    def reach(self, hosts: Mapping[str, tuple[str, int]]) -> int:
        """Have these hosts take part, too, from now on. May be called in another thread.

        Raises:
            UserError: one of them cannot be reached, or cannot load the job.
        """
        self._addresses |= hosts
        reached = self._reach([name for name in hosts if name not in self._hosts or self._hosts[name].lost])
        for host in reached:
            host.ask_to_load(self._entry, self._spec, self._depot.port)
        self._load(reached)
        there = [host.loaded.cuda_devices for host in self._hosts.values() if not host.lost]
        return self._here.reach({}) + sum(there)

    def start(self, worker: int, host: str = HERE) -> int:
        self._host_of[worker] = host
        if host == HERE:
            return self._here.start(worker)
        for last in (False, True):
            if host not in self._hosts or self._hosts[host].lost:
                self.reach({host: self._addresses[host]})
            try:
                return self._hosts[host].start(worker)
            except UserError:
                if last or not self._hosts[host].lost:
                    raise
        raise AssertionError

    def connect(self, workers: Sequence[int], messages: Sequence[Linking]) -> None:
        if len({self._host_of[worker] for worker in workers}) == 1:
            self._engine_of(workers[0]).connect(workers, messages)
            return
        self._meetings += 1
        meeting = Meeting(name=f"meeting-{self._meetings}", world=len(workers))
        for worker, message in zip(workers, messages, strict=True):
            told: Any = message  # a frozen dataclass, which a protocol cannot say
            self.send(worker, replace(told, meeting=meeting))

    def send(self, worker: int, message: object) -> None:
        self._engine_of(worker).send(worker, message)

    def clogged(self, worker: int) -> int:
        return self._here.clogged(worker) if self._host_of.get(worker, HERE) == HERE else 0

    def stacks(self, worker: int) -> None:
        self._engine_of(worker).stacks(worker)

    def kill(self, worker: int) -> None:
        self._engine_of(worker).kill(worker)

    def clock(self, worker: int) -> int:
        host = self._host_of.get(worker, HERE)
        return 0 if host == HERE else self._hosts[host].clock

    def poll(self, timeout: float) -> None:
        for host in list(self._hosts.values()):
            host.look()
        self._here.poll(min(timeout, _LOOK_SECONDS))

    def close(self) -> None:
        for host in self._hosts.values():
            host.close()
        self._here.close()
        self._depot.close()

    def _engine_of(self, worker: int) -> LocalEngine | RemoteHost:
        host = self._host_of.get(worker, HERE)
        return self._here if host == HERE else self._hosts[host]

    def _take(self, event: EngineEvent) -> None:
        self._on_event(event)
        if isinstance(event, Exited):
            self._host_of.pop(event.worker, None)

    def _reach(self, names: Iterable[str]) -> list[RemoteHost]:
        """Connect to hosts, all at the same time.

        Raises:
            UserError: some are not there; names them all.
        """
        found = [
            RemoteHost(name, self._addresses[name], self._token, self._loop, self._board, self._take) for name in names
        ]
        errors: list[str] = []

        def reach(host: RemoteHost) -> None:
            try:
                host.reach()
            except UserError as error:
                errors.append(str(error))

        threads = [threading.Thread(target=reach, args=(host,)) for host in found]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            for host in found:
                host.close()
            raise UserError("\n".join(sorted(errors)))
        return found

    def _load(self, hosts: Iterable[RemoteHost]) -> None:
        """
        Raises:
            UserError: a host cannot load the job, or it has another one; then none of them takes part.
        """
        try:
            for host in hosts:
                host.load()
                self._loaded = self._loaded or host.loaded
                _check_alike(host.name, host.loaded.alike, self._loaded.alike)
        except UserError:
            for host in hosts:
                host.close()
            raise
        self._hosts |= {host.name: host for host in hosts}  # from now on it is looked at


def _check_alike(host: str, there: Mapping[str, str], here: Mapping[str, str]) -> None:
    """
    Raises:
        UserError: a host has something that is not the same here.
    """
    for name in here:
        if there.get(name) != here[name]:
            raise UserError(
                f"host {host} would compute something else: {name} is {there.get(name, 'not there')} there and "
                f"{here[name]} here. Have the same job files and the same versions on every host."
            )
