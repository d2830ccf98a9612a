"""A command that runs in a host of a lab."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_INSIDE = Path(__file__).with_name("inside.py")


def script(*arguments: object) -> list[str]:
    """The command line of `inside.py`; without site packages it is up in 0.02 s."""
    return [sys.executable, "-I", "-S", str(_INSIDE), *map(str, arguments)]


class Process(subprocess.Popen):
    """A command in the namespaces of another process, with what `Popen` offers.

    `pid` is a process that only waits for the command and ends as it does; `command_pid` is the command's, as the
    caller sees it (inside of its host it has another). Signals go to the command.
    """

    def __init__(self, holder: int, command: Sequence[str], **options: Any) -> None:
        self._told, tell = os.pipe()
        self._command_pid = 0
        try:
            options["pass_fds"] = (*options.get("pass_fds", ()), tell)
            super().__init__(script("enter", os.getpid(), holder, tell, *command), **options)
        except BaseException:
            os.close(self._told)
            raise
        finally:
            os.close(tell)

    @property
    def command_pid(self) -> int:
        """The process number of the command; 0 if it could not be started."""
        if self._told >= 0:
            self._command_pid = int(os.read(self._told, 32) or 0)
            os.close(self._told)
            self._told = -1
        return self._command_pid

    def send_signal(self, sig: int) -> None:
        if self.poll() is None and self.command_pid:
            with contextlib.suppress(ProcessLookupError):  # it ended, and the one that waits is about to
                os.kill(self.command_pid, sig)

    def __del__(self, *arguments: Any) -> None:
        if getattr(self, "_told", -1) >= 0:
            os.close(self._told)
            self._told = -1
        super().__del__(*arguments)  # type: ignore[misc]
