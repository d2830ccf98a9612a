"""A template that is a fork of this process: for what another process cannot import, such as a function of a notebook.

Python that is imported by name is loaded in a process of its own, which has one thread and a clean history. A fork has
this process's history: threads that it had are gone, and locks that they held stay locked. torch is the reason for
care: once a process has computed a gradient, or has run an operator on several threads, its forks cannot. Whether they
can is tried, in a fork that is thrown away, before anything is built on it.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from manyhands.engine.channel import Channel
from manyhands.engine.messages import Load, Place, Serve
from manyhands.errors import UserError

_TRIAL_SECONDS = 30.0
"""What a trial takes at most, on a busy machine, unless it hangs."""


class ForkedProcess:
    """A child of this process that was forked and not executed: what `subprocess.Popen` offers of it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._code: int | None = None

    def wait(self) -> int:
        """Wait until the process has ended; returns its exit code, minus the signal's number if one killed it."""
        if self._code is None:
            self._code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._code

    def kill(self) -> None:
        if self._code is None:
            os.kill(self.pid, signal.SIGKILL)


class ForkedTemplate:
    """A template (template.py) that is a fork of this process, and has all that this one has in memory.

    Attributes:
        control: talks to it.
        process: it.
    """

    def __init__(self) -> None:
        self.control, remote = Channel.pair()
        _flush()
        pid = os.fork()
        if pid == 0:
            _serve(remote)
        remote.close()
        self.process = ForkedProcess(pid)
        self.control.send(Serve(supervisor=os.getpid()))

    def load(self, entry: str, spec: object, place: Place) -> None:
        """Have the template call an entry."""
        self.control.send(Load(entry=entry, spec=spec, place=place))


def check_fork(what: Callable[[], object], remedy: str) -> None:
    """Try something in a fork that is thrown away.

    Raises:
        UserError: it fails or hangs there; says why, and the remedy.
    """
    _flush()
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        _try(what, write)
    os.close(write)
    child = ForkedProcess(pid)
    try:
        ended = bool(select.select([read], [], [], _TRIAL_SECONDS)[0])  # it says why, or the kernel closes its end
        reason = os.read(read, 4096).decode(errors="replace").strip() if ended else "it hangs"
        if ended and child.wait() == 0:
            return
    finally:
        child.kill()
        child.wait()
        os.close(read)
    raise UserError(f"what this process has done keeps forks of it from training ({reason}). {remedy}")


def _try(what: Callable[[], object], write: int) -> NoReturn:
    code = 1
    try:
        what()
        code = 0
    except BaseException as error:
        os.write(write, str(error).split("\n")[0].encode()[:2000])
    os._exit(code)


def _serve(channel: Channel) -> NoReturn:
    """Be a template, in a fork, and nothing of what this process was."""
    from manyhands.engine.template import serve

    code = 1
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        # A notebook's streams write through threads that this fork does not have.
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
        code = serve(channel)
    except BaseException:
        traceback.print_exc()
    _flush()
    os._exit(code)


def _flush() -> None:
    """Flush the standard streams: what lies in a buffer would be written by both."""
    for name in ("stdout", "stderr"):
        try:
            getattr(sys, name).flush()
        except (AttributeError, OSError, ValueError):
            pass  # there is none, or it is closed
