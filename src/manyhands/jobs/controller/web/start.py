"""Starts a controller in the background, and learns whether it runs or why not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from manyhands.errors import UsageError, UserError
from manyhands.jobs.controller.storage.home import Home
from manyhands.jobs.controller.web.serve import Settings, serve

_SHOWN_LINES, _SHOWN_BYTES = 15, 1 << 16
"""The most of the log's end that is shown if the controller ends at once."""


def start(home: Home, settings: Settings) -> dict[str, Any]:
    """Start a controller in the background. Returns its `pid`, `port`, `url` and `hosts` once it answers.

    Raises:
        UserError: the controller cannot run; the text says why.
    """
    home.make()
    heard, say = os.pipe()
    with os.fdopen(os.open(home.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab") as log:
        before = log.seek(0, os.SEEK_END)
        process = subprocess.Popen(
            [sys.executable, "-m", "manyhands.jobs.controller", str(home.path), json.dumps(asdict(settings)), str(say)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(say,),
            start_new_session=True,
        )
    os.close(say)
    with os.fdopen(heard) as answers:
        try:
            answer = json.loads(answers.read() or "{}")
        except KeyboardInterrupt:
            process.terminate()
            raise
    if "error" in answer:
        process.wait()
        raise (UsageError if answer["usage"] else UserError)(answer["error"])
    if not answer:
        raise UserError(
            f"the controller ended at once, with code {process.wait()}. The end of {home.log}:\n"
            + _last_lines(home.log, before)
        )
    return answer


def _last_lines(log: Path, begin: int) -> str:
    """What was written since a place in the file, as far as a terminal shows it."""
    with log.open("rb") as file:
        file.seek(max(begin, file.seek(0, os.SEEK_END) - _SHOWN_BYTES))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-_SHOWN_LINES:])


def main(arguments: list[str]) -> int:
    """Be the process that `start` starts. Returns the exit code.

    Args:
        arguments: the home's path, `Settings` as JSON, and the descriptor over which `start` hears how it went.
    """
    home, settings, say = Home(Path(arguments[0])), Settings(**json.loads(arguments[1])), int(arguments[2])

    def answer(found: dict[str, Any]) -> None:
        os.write(say, json.dumps(found).encode())
        os.close(say)

    try:
        serve(home, settings, answer)
    except UserError as error:
        sys.stderr.write(f"manyhands: {error}\n")
        try:
            answer({"error": str(error), "usage": isinstance(error, UsageError)})
        except OSError:
            pass  # it has said that it was ready
        return 1
    return 0
