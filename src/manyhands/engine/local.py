"""The local engine: workers forked on this machine from a template that has torch loaded."""

from __future__ import annotations

import array
import fcntl
import os
import resource
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from manyhands.engine.channel import Channel
from manyhands.engine.engine import HERE, EngineEvent, Exited, Printed, Said
from manyhands.engine.loop import Loop
from manyhands.engine.messages import FORKING, LOADING, Ended, Fork, Left, Load, Loaded, Place, Refused, Serve, Started
from manyhands.errors import UsageError, UserError
from manyhands.wire import Data

_MAX_LINE = 16 << 10
_READ_AT_ONCE = 16 << 10
"""Bytes of a worker's output that are read at once: some thousand lines at most, before others have their turn."""
_READ_AT_LAST = 4 << 20
"""Bytes that are read of a worker that is gone: more than a pipe holds, though who it has left behind may go on."""
_PIPE_BUF = 4096
_END_SECONDS = 3.0
"""What a template has to end whoever the workers have left behind."""
_DESCRIPTORS = 1 << 16
_LOAD_SECONDS = 1800.0
_FORK_SECONDS = 60.0
_ENVIRONMENT = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1", "PYTHONHASHSEED": "0"}
"""Asking torch whether there is CUDA must not touch the driver: a forked child could not use it any more. And the order
of a set has to be the same on every host, and after a resume."""


@dataclass
class _Worker:
    pid: int
    channel: Channel
    output: int
    unfinished_line: bytearray = field(default_factory=bytearray)
    room: int = 1 << 16
    """Bytes that the pipe for its output holds."""
    clogged: int = 0
    """When the pipe was last seen full, in monotonic ns."""


class Process(Protocol):
    """A child of this process."""

    def wait(self) -> int:
        """Wait until the process has ended; returns its exit code."""
        ...

    def kill(self) -> None:
        """End the process at once."""
        ...


class AnyTemplate(Protocol):
    """A process to fork workers from, on its way."""

    @property
    def control(self) -> Channel: ...

    @property
    def process(self) -> Process: ...

    def load(self, entry: str, spec: object, place: Place) -> None:
        """Have the template call an entry."""
        ...


class Template:
    """A process of its own to fork workers from (template.py), on its way.

    Args:
        inherit: descriptors that it and all workers keep open under the same numbers.
        preload: a module that it imports before it knows what to load, which may take seconds.
    """

    def __init__(self, inherit: Sequence[int], preload: str = "") -> None:
        self.control, remote = Channel.pair()
        command = [sys.executable, "-m", "manyhands.engine.template", str(remote.link.fileno()), preload]
        self.process = subprocess.Popen(
            [argument for argument in command if argument],
            stdin=subprocess.DEVNULL,
            env={**os.environ, **_ENVIRONMENT},
            pass_fds=(remote.link.fileno(), *inherit),
            start_new_session=True,
        )
        remote.close()
        self.control.send(Serve(supervisor=os.getpid()))

    def load(self, entry: str, spec: object, place: Place) -> None:
        self.control.send(Load(entry=entry, spec=spec, place=place))


class LocalEngine:
    """Forks workers on this machine; needs nothing but the standard library here and torch in the workers.

    Args:
        entry: `module:function`, called once in the template with `spec` and `place`; it returns what it found and
            `main(channel, worker)`, which each worker runs.
        spec: JSON data for the entry.
        place: what it finds on this machine. The template and all workers keep its descriptors open, and those of
            `inherit`, under the same numbers.
        loop: the loop that `poll` runs.
        template: one that inherits the same, and has loaded nothing yet.
        make_template: makes another one; by default a process of its own.
    """

    def __init__(
        self,
        entry: str,
        spec: object,
        place: Place,
        loop: Loop,
        inherit: Sequence[int] = (),
        template: AnyTemplate | None = None,
        make_template: Callable[[], AnyTemplate] | None = None,
    ) -> None:
        self._entry = entry
        self._spec, self._place = spec, place
        self._inherit = (place.board, *(place.slots or ()), *inherit)
        self._loop = loop
        self._workers: dict[int, _Worker] = {}
        self._prepared = template
        self._make_template = make_template or (lambda: Template(self._inherit))
        self._template: Process | None = None
        self._control: Channel | None = None
        self._on_event: Callable[[EngineEvent], None] = lambda event: None
        self._early: list[Ended] = []
        self._told_left = False
        self._loaded = Loaded()

    def report_to(self, on_event: Callable[[EngineEvent], None]) -> None:
        self._on_event = on_event

    def open(self) -> Loaded:
        # A gang of n workers has n (n - 1) socket ends, and 1024 descriptors are a common soft limit.
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        few = most == resource.RLIM_INFINITY or most > _DESCRIPTORS
        resource.setrlimit(resource.RLIMIT_NOFILE, (_DESCRIPTORS if few else most, most))
        template, self._prepared = self._prepared or self._make_template(), None
        self._template, control = template.process, template.control
        template.load(self._entry, self._spec, self._place)
        received = self._answer_within(control, _LOAD_SECONDS)
        if received is None:
            control.close()
            raise UserError(f"the process that loads the job ended with code {self._template.wait()}.")
        answer = LOADING.decode(received[0])
        if isinstance(answer, Refused):
            self._template.wait()
            control.close()
            if not answer.error:  # the entry has printed what there is to say, for example its --help
                raise SystemExit(answer.code)
            raise (UsageError if answer.code == 2 else UserError)(answer.error)
        self._control = control
        self._loop.watch(control.link, self._hear_template)
        self._loaded = answer
        return answer

    def reach(self, hosts: Mapping[str, tuple[str, int]]) -> int:
        if hosts:
            raise UserError(
                f"this run is on one machine, and {', '.join(hosts)} can take part only in one that was started with "
                "--hosts. Stop it, and go on with --resume and --hosts."
            )
        return self._loaded.cuda_devices

    def start(self, worker: int, host: str = HERE) -> int:
        assert host == HERE
        channel, remote = Channel.pair()
        output, remote_output = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(output, False)
        try:
            pid = self._fork(worker, [remote.link.fileno(), remote_output])
        except BaseException:
            channel.close()
            os.close(output)
            raise
        finally:
            remote.close()
            os.close(remote_output)
        self._workers[worker] = _Worker(pid, channel, output, room=fcntl.fcntl(output, fcntl.F_GETPIPE_SZ))
        self._loop.watch(channel.link, lambda: self._hear(worker))
        self._loop.watch(output, lambda: self._read_output(worker))
        return pid

    def connect(self, workers: Sequence[int], messages: Sequence[object]) -> None:
        count = len(workers)
        ends: list[list[socket.socket | None]] = [[None] * count for _ in range(count)]
        for low in range(count):
            for high in range(low + 1, count):
                ends[low][high], ends[high][low] = socket.socketpair()
        for worker, message, row in zip(workers, messages, ends, strict=True):
            links = [link for link in row if link is not None]
            self._send(worker, message, [link.fileno() for link in links])
            for link in links:
                link.close()

    def send(self, worker: int, message: object) -> None:
        self._send(worker, message)

    def clock(self, worker: int) -> int:
        return 0

    def clogged(self, worker: int) -> int:
        return self._workers[worker].clogged if worker in self._workers else 0

    def stacks(self, worker: int) -> None:
        self._signal(worker, signal.SIGUSR1)

    def kill(self, worker: int) -> None:
        self._signal(worker, signal.SIGKILL)

    def poll(self, timeout: float) -> None:
        early, self._early = self._early, []
        for ended in early:
            self._ended(ended)
        self._loop.run_once(0 if early else timeout)

    def close(self) -> None:
        if self._template is not None:
            for worker in self._workers:
                self.kill(worker)
            if self._control is not None:
                self._end_kin(self._control)
            self._template.kill()
            self._template.wait()
        for worker in list(self._workers):
            self._drop(worker)
        if self._control is not None:
            self._loop.unwatch(self._control.link)
            self._control.close()
            self._control = None

    def _end_kin(self, control: Channel) -> None:
        """Have the template end the processes that workers have started and left, and say how many there were."""
        deadline = time.monotonic() + _END_SECONDS
        try:
            control.link.shutdown(socket.SHUT_WR)
            while control.wait(max(0.0, deadline - time.monotonic())):
                received = control.receive()
                if received is None:
                    return
                if isinstance(said := FORKING.decode(received[0]), Left):
                    self._tell_left(said)
        except OSError:
            pass  # the template is gone

    def _tell_left(self, left: Left) -> None:
        """Say that workers leave processes behind: once, most do if one does."""
        if not self._told_left:
            self._told_left = True
            text = f"manyhands: the job has started processes and not ended them: {left.count} ended with the worker"
            self._on_event(Printed(-1 if left.worker is None else left.worker, text))

    def _fork(self, worker: int, descriptors: list[int]) -> int:
        """Have the template fork a worker that gets the descriptors; its process id."""
        for _ in range(2):
            if self._control is None:
                self.open()
            assert self._control is not None
            try:
                self._control.send(Fork(worker=worker), descriptors)
                return self._await_started(worker)
            except (BrokenPipeError, ConnectionResetError):  # the template is gone, and nobody has noticed yet
                self._template_lost()
        raise UserError("the process that workers are forked from died twice while starting one.")

    def _answer_within(self, control: Channel, seconds: float) -> tuple[Data, list[int]] | None:
        """The template's next message; None when it is gone. One that says nothing for so long is ended."""
        if not control.wait(seconds) and self._template is not None:
            self._template.kill()
        return control.receive()

    def _await_started(self, worker: int) -> int:
        """The new worker's process id; whatever else the template says meanwhile is kept for `poll`."""
        assert self._control is not None
        while True:
            received = self._answer_within(self._control, _FORK_SECONDS)
            if received is None:
                raise BrokenPipeError("the template is gone")
            said: Started | Ended | Left = FORKING.decode(received[0])
            if isinstance(said, Ended):
                self._early.append(said)
            elif isinstance(said, Left):
                self._tell_left(said)
            elif said.worker == worker:
                return said.pid

    def _send(self, worker: int, message: object, descriptors: Sequence[int] = ()) -> None:
        if worker in self._workers:
            try:
                self._workers[worker].channel.send(message, descriptors)
            except OSError:
                pass  # it is gone, and its Exited is on the way

    def _signal(self, worker: int, number: int) -> None:
        if worker in self._workers:
            try:
                os.kill(self._workers[worker].pid, number)
            except ProcessLookupError:
                pass

    def _hear_template(self) -> None:
        assert self._control is not None
        received = self._control.receive()
        if received is None:
            self._template_lost()
        elif isinstance(said := FORKING.decode(received[0]), Ended):
            self._ended(said)
        elif isinstance(said, Left):
            self._tell_left(said)

    def _template_lost(self) -> None:
        """The template is gone, and the kernel has killed its workers. The next start opens a new one."""
        assert self._control is not None and self._template is not None
        self._loop.unwatch(self._control.link)
        self._control.close()
        self._control = None
        self._template.wait()
        early, self._early = self._early, []
        for ended in early:
            self._ended(ended)
        for worker in list(self._workers):
            self._finish(worker, None)

    def _ended(self, ended: Ended) -> None:
        if ended.worker in self._workers:
            self._finish(ended.worker, ended.status)

    def _finish(self, worker: int, status: int | None) -> None:
        """Report everything a dead worker said and printed, then that it is gone."""
        while self._hear(worker):
            pass
        self._read_output(worker, last=True)
        self._drop(worker)
        self._on_event(Exited(worker, status))

    def _hear(self, worker: int) -> bool:
        entry = self._workers.get(worker)
        if entry is None or not entry.channel.pending():
            return False
        received = entry.channel.receive()
        if received is None:
            self._loop.unwatch(entry.channel.link)
            return False
        self._on_event(Said(worker, received[0]))
        return True

    def _read_output(self, worker: int, last: bool = False) -> None:
        entry = self._workers.get(worker)
        if entry is None:
            return
        if _waiting(entry.output) > entry.room - _PIPE_BUF:
            entry.clogged = time.monotonic_ns()
        left = _READ_AT_LAST if last else _READ_AT_ONCE
        try:
            while left > 0:
                chunk = os.read(entry.output, _READ_AT_ONCE)
                if not chunk:
                    self._loop.unwatch(entry.output)
                    break
                entry.unfinished_line += chunk
                left = left - len(chunk) if last else 0
        except BlockingIOError:
            pass
        *lines, rest = entry.unfinished_line.split(b"\n")
        entry.unfinished_line = bytearray(rest)
        if rest and (last or len(rest) > _MAX_LINE):
            lines.append(bytearray(rest))
            entry.unfinished_line.clear()
        for line in lines:
            self._on_event(Printed(worker, line.decode(errors="replace").rstrip("\r")))

    def _drop(self, worker: int) -> None:
        entry = self._workers.pop(worker)
        self._loop.unwatch(entry.channel.link)
        self._loop.unwatch(entry.output)
        entry.channel.close()
        os.close(entry.output)


def _waiting(descriptor: int) -> int:
    """Bytes that wait in a pipe."""
    count = array.array("i", [0])
    fcntl.ioctl(descriptor, termios.FIONREAD, count)
    return count[0]
