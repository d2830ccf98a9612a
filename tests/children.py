"""Forked helpers with hard deadlines for the tests of this folder."""

import os
import signal
import threading
import traceback
import warnings
from contextlib import contextmanager

from deadlines import DEADLINE


@contextmanager
def child(function):
    """A forked process that runs `function`; yields its pid and kills it at the end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 on forking with threads; we only use sockets
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            function()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    try:
        yield pid
    finally:
        try:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass


def release(*things):
    """Close the descriptors of boards and slots, which outlive their objects."""
    for thing in things:
        for descriptor in getattr(thing, "descriptors", None) or [thing.descriptor]:
            os.close(descriptor)


def together(*functions):
    """Run the functions in threads; their results, or the exceptions they raised, within the deadline."""
    results = [None] * len(functions)

    def run(index, function):
        try:
            results[index] = function()
        except Exception as error:
            results[index] = error

    threads = [threading.Thread(target=run, args=pair, daemon=True) for pair in enumerate(functions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
        assert not thread.is_alive(), f"still running after {DEADLINE} s"
    return results
