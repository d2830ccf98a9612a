"""Agents that lend this machine under other names, as hosts of a run."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import warm
from deadlines import DEADLINE, Deadline


class LentHost:
    """An agent in a process of its own. `name` is what a run calls it."""

    def __init__(
        self,
        token: Path,
        wrap=lambda command: warm.popen(command, **PIPES),
        host="127.0.0.1",
        spare=False,
    ) -> None:
        command = [sys.executable, "-m", "manyhands", "agent", "--port", "0", "--token", str(token)]
        command += [] if spare else ["--no-spare"]
        self.process = wrap(command)
        self.lines: list[str] = []
        for line in self.process.stdout:
            self.lines.append(line)
            if found := re.search(r"listening on port (\d+)", line):
                self.name = f"{host}:{found[1]}"
                break
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        self.lines.extend(self.process.stdout)

    def until_line(self, text: str) -> None:
        """Wait for a line that holds `text`."""
        end = Deadline()
        while not any(text in line for line in self.lines):
            assert not end.passed, f"no {text!r} within {end} in {self.lines}"
            time.sleep(0.02)

    def kill(self) -> None:
        """As if the machine had lost its power: neither the agent nor what it started gets a word out."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(DEADLINE)
        self.process.stdout.close()


PIPES = {
    "stdout": subprocess.PIPE,
    "stderr": subprocess.STDOUT,
    "text": True,
    "env": {**os.environ, "PYTHONUNBUFFERED": "1"},
}
