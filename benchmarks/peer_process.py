"""Commands that a benchmark waits for: each has a deadline, after which it ends, with all that it has started.

A peer that hangs must not take the benchmark with it. Killing the command is not enough: torchrun's workers are
sessions of their own, and whoever waits for the end of a pipe waits for all who hold it. So what a command prints goes
to files, and at the deadline all its descendants are killed, with their process groups.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from common import ROOT


class LateError(RuntimeError):
    """A command had not ended by its deadline, and was killed."""


def finish(command: Sequence[object], deadline: float, environment: Mapping[str, str] | None = None) -> str:
    """Run a command to its end; what it prints.

    Args:
        deadline: seconds.
        environment: variables that it finds besides ours.

    Raises:
        LateError: it did not end in time.
        RuntimeError: it failed; the text holds the end of what it said.
    """
    words = [str(word) for word in command]
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            words,
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=errors,
            start_new_session=True,
        )
        try:
            code = process.wait(deadline)
        except subprocess.TimeoutExpired:
            raise LateError(f"not within {deadline:.0f} s") from None
        finally:
            kill_all(process)
        if code:
            raise RuntimeError(f"{shlex.join(words)} ended with code {code}:\n{_all(errors)[-2000:]}")
        return _all(said)


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that leads a group, that group, its descendants and their groups."""
    groups = {process.pid}
    if process.poll() is None:
        for pid in _family(process.pid):
            with contextlib.suppress(ProcessLookupError):
                groups.add(os.getpgid(pid))
    groups.discard(os.getpgid(0))  # cannot be: it leads a group of its own
    for group in groups:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
    process.wait()


def _family(pid: int) -> set[int]:
    """A process and its descendants."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            parents[int(path.parent.name)] = int(path.read_text().rsplit(")", 1)[1].split()[1])
    found: set[int] = set()
    more = {pid}
    while more:
        found |= more
        more = {child for child, parent in parents.items() if parent in found} - found
    return found


def _all(file: IO[str]) -> str:
    file.seek(0)
    return file.read()
