"""What a job's supervisor left in its files, read with suspicion: a damaged one is that job's trouble alone."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import manyhands.jobs.controller.checks as checks
from manyhands.errors import UserError

_LARGE = 1 << 53
_TAIL = 600
"""How many characters of what a supervisor printed last are kept as the reason why it ended."""
_ERROR = 10_000
"""How many characters of a run's own reason are kept."""
_ENDINGS = ("finished", "failed", "stopped")


class DamagedError(UserError):
    """A file of a job does not say what it has to."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """How a run ended, as its `result.json` says."""

    status: str = ""
    """How the run ended: `finished`, `failed` or `stopped`; empty if it left no result."""
    steps: int = 0
    total_steps: int = 0
    durable_step: int = 0
    """The newest step whose state is on disk."""
    weights: str = ""
    """SHA-256 of the final weights; empty if the run has not finished."""
    error: str = ""


def read_result(path: Path) -> Result:
    """What a run's `result.json` says; an empty result if there is no such file.

    Raises:
        DamagedError: the file cannot be read, or says something else.
    """
    values = _read(path)
    if values is None:
        return Result()
    try:
        status = checks.text("status", values.get("status"), 20)
        if status not in _ENDINGS:
            raise UserError(f"status is {status!a}: it has to be one of {', '.join(_ENDINGS)}.")
        ended = status == "finished"
        return Result(
            status=status,
            steps=_count(values, "steps", needed=ended),
            total_steps=_count(values, "total_steps"),
            durable_step=_count(values, "durable_step", needed=ended),
            weights=checks.text("weights_sha256", values.get("weights_sha256"), 100, empty=True) if ended else "",
            error="" if ended else _error(values.get("error", None if status == "failed" else "")),
        )
    except UserError as error:
        raise DamagedError(f"{path} is damaged: {error} Checkpoints are kept; `manyhands resume` goes on.") from None


def micro_batches(path: Path) -> int | None:
    """How many micro-batches the job of a run has, as its `run.json` says; None if there is no such file.

    Raises:
        DamagedError: the file cannot be read, or does not say so.
    """
    values = _read(path)
    if values is None:
        return None
    try:
        job = checks.table("job", values.get("job"), 1000)
        return checks.whole("job.micro_batches", job.get("micro_batches"), 1, _LARGE)
    except UserError as error:
        raise DamagedError(f"{path} is damaged: {error} Put it back from a copy, or submit the job again.") from None


def last_words(path: Path) -> str:
    """What a supervisor printed after its last `manyhands:`, or the end of all that it printed if it has none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 10 * _TAIL))
            text = file.read(10 * _TAIL).decode(errors="replace").strip()
    except OSError:
        return ""
    cut = text.rfind("manyhands: ")
    return text[cut + len("manyhands: ") :][:_TAIL] if cut >= 0 else text[-_TAIL:]


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return checks.table("it", json.loads(path.read_bytes()), 10_000)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DamagedError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError):
        raise DamagedError(f"{path} is damaged: it is not JSON.") from None
    except UserError as error:
        raise DamagedError(f"{path} is damaged: {error}") from None


def _count(values: dict[str, Any], name: str, needed: bool = False) -> int:
    return checks.whole(name, values.get(name, None if needed else 0), 0, _LARGE)


def _error(value: Any) -> str:
    """A text that may be shown, whatever the job has put into it."""
    if not isinstance(value, str):
        raise UserError("error is no text.")
    return value.encode(errors="backslashreplace").decode()[:_ERROR]
