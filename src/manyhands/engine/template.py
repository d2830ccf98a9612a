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
import traceback
from collections.abc import Callable

from manyhands.engine.channel import Channel
from manyhands.engine.messages import FORK, LOAD, SERVE, Ended, Fork, Load, Refused, Started
from manyhands.engine.process import die_with_parent, end_at_once
from manyhands.errors import UsageError, UserError

WorkerMain = Callable[[Channel, int], None]


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
    wakeup, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(waker)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    children: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([channel.link, wakeup], [], [])
        if wakeup in ready:
            os.read(wakeup, 4096)
            _reap(channel, children)
        if channel.link in ready:
            received = channel.receive()
            if received is None:
                return 0
            order: Fork = FORK.decode(received[0])
            pid = _fork(order.worker, received[1], worker_main, channel, (wakeup, waker))
            children[pid] = order.worker
            channel.send(Started(worker=order.worker, pid=pid))


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


def _reap(channel: Channel, children: dict[int, int]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        if pid in children:
            exit_code = os.waitstatus_to_exitcode(status)
            channel.send(Ended(worker=children.pop(pid), status=exit_code))


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
