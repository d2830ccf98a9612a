"""The process that workers are forked from.

Importing torch takes seconds, forking a process that has imported it takes milliseconds. So one process, the
template, imports torch and the user's file once, stays single-threaded and idle, and forks a worker whenever
it is told to. A worker that replaces a dead one is at work again in well under a second.

Two things a template must never do, because they do not survive a fork: initialise CUDA, or start a thread
pool (hence one thread here; a worker sets its own number after the fork).

Run as `python -m manyhands.engine.template FD [MODULE]`, FD being one end of a `Channel`; the module is imported while
nobody knows yet what to load.
"""

from __future__ import annotations

import gc
import importlib
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress

from manyhands.engine import kin
from manyhands.engine.channel import Channel
from manyhands.engine.messages import FORK, LOAD, SERVE, Ended, Fork, Left, Load, Refused, Started
from manyhands.engine.process import die_with_parent, end_at_once
from manyhands.errors import UsageError, UserError

WorkerMain = Callable[[Channel, int], None]
_GRACE_SECONDS = 0.5
"""What processes that a worker has left have to end by themselves."""


def main(descriptor: int, preload: str = "") -> int:
    """Be the template that talks over this descriptor."""
    return serve(Channel(socket.socket(fileno=descriptor)), preload)


def serve(channel: Channel, preload: str = "") -> int:
    """Load the entry, then fork workers until the supervisor goes away. Returns the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the supervisor decides
    parent = channel.receive()
    if parent is None:
        return 0
    die_with_parent(SERVE.decode(parent[0]).supervisor)
    gc.disable()  # imports make a million objects that stay: going through them again and again takes a second
    if preload:
        importlib.import_module(preload)
    received = channel.receive()
    if received is None:
        return 0
    worker_main = _load(channel, LOAD.decode(received[0]))
    if worker_main is None:
        return 1
    gc.freeze()  # keep the collector from touching, and so copying, the pages that workers share
    gc.enable()
    return _Family(channel, worker_main).look_after()


class _Family:
    """The workers, and whom they leave behind."""

    def __init__(self, channel: Channel, worker_main: WorkerMain) -> None:
        self._channel, self._worker_main = channel, worker_main
        self._wakeup, self._waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._children: dict[int, int] = {}
        self._left: list[tuple[float, int, int]] = []
        """Workers that are gone and have left processes: when those have to go, whose they are, and the session."""
        kin.adopt_orphans()
        signal.set_wakeup_fd(self._waker)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def look_after(self) -> int:
        """Fork workers as ordered, until the supervisor goes away; then end whoever is left."""
        while True:
            wait = max(0.0, self._left[0][0] - time.monotonic()) if self._left else None
            ready, _, _ = select.select([self._channel.link, self._wakeup], [], [], wait)
            if self._wakeup in ready:
                os.read(self._wakeup, 4096)
                self._reap()
            self._end_sessions()
            if self._channel.link in ready:
                received = self._channel.receive()
                if received is None:
                    self._end_all()
                    return 0
                order: Fork = FORK.decode(received[0])
                pid = _fork(order.worker, received[1], self._worker_main, self._channel, (self._wakeup, self._waker))
                self._children[pid] = order.worker
                self._channel.send(Started(worker=order.worker, pid=pid))

    def _reap(self) -> None:
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid not in self._children:
                    continue
                worker = self._children.pop(pid)
                if kin.in_session(pid):
                    self._left.append((time.monotonic() + _GRACE_SECONDS, worker, pid))
                self._channel.send(Ended(worker=worker, status=os.waitstatus_to_exitcode(status)))

    def _end_sessions(self) -> None:
        while self._left and self._left[0][0] <= time.monotonic():
            _, worker, session = self._left.pop(0)
            self._say(worker, kin.end(lambda session=session: kin.in_session(session)))

    def _end_all(self) -> None:
        for pid in self._children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + _GRACE_SECONDS
        while kin.descendants(os.getpid()) and (left := deadline - time.monotonic()) > 0:
            if select.select([self._wakeup], [], [], left)[0]:
                os.read(self._wakeup, 4096)
            self._reap()
        self._say(None, kin.end(lambda: kin.descendants(os.getpid())))

    def _say(self, worker: int | None, count: int) -> None:
        if count:
            with suppress(OSError):
                self._channel.send(Left(worker=worker, count=count))


def _load(channel: Channel, order: Load) -> WorkerMain | None:
    """Call the entry. Reports what it found, or why it refused."""
    module, _, name = order.entry.partition(":")
    try:
        loaded, worker_main = getattr(importlib.import_module(module), name)(order.spec, order.place)
    except UserError as error:
        channel.send(Refused(error=str(error), code=_code(error)))
        return None
    except SystemExit as error:  # the job's own flags: --help, or a wrong one, which was printed already
        text = error.code if isinstance(error.code, str) else ""
        code = error.code if isinstance(error.code, int) else 1 if text else 2
        channel.send(Refused(error=f"the job file ends itself: {text}" if text else "", code=code))
        return None
    except Exception:
        channel.send(Refused(error=traceback.format_exc()[-20000:], code=1))
        return None
    channel.send(loaded)
    return worker_main


def _code(error: UserError) -> int:
    return 2 if isinstance(error, UsageError) else 1


def _fork(
    worker: int, descriptors: list[int], worker_main: WorkerMain, template: Channel, wakeup: tuple[int, int]
) -> int:
    link, output = descriptors
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        template.close()
        for descriptor in wakeup:
            os.close(descriptor)
        _be_worker(worker, link, output, worker_main, parent)
    os.close(link)
    os.close(output)
    return pid


def _be_worker(worker: int, link: int, output: int, worker_main: WorkerMain, parent: int) -> None:
    code = 1
    try:
        die_with_parent(parent)
        os.setsid()
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)
        sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        worker_main(Channel(socket.socket(fileno=link)), worker)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
        if isinstance(error.code, str):  # as Python does
            sys.stderr.write(f"{error.code}\n")
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


if __name__ == "__main__":
    end_at_once(main(int(sys.argv[1]), *sys.argv[2:]))
