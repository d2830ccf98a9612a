"""Linux process plumbing that Python has no name for."""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import sys
from typing import NoReturn

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent dies, however that happens.

    Args:
        parent: the parent's process id as it was before the fork, to notice a parent that is gone already.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def end_at_once(code: int) -> NoReturn:
    """Exit, without taking the interpreter and its modules apart: with torch loaded, that takes most of a second."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def describe_status(status: int | None) -> str:
    """An exit status in words: `exited with code 1`, `was killed by signal 9 (SIGKILL)`."""
    if status is None:
        return "disappeared"
    if status < 0:
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = "unknown"
        return f"was killed by signal {-status} ({name})"
    return f"exited with code {status}"
