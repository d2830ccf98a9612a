"""Traces as files: our own CSV, and the formats of public ones.

Our own has a header and a line per job: `submitted` (seconds), `workers`, `seconds` (what it takes on so many), and
if wanted `most` (workers that it can use), `user`, `priority`, `kind`, `spread` (speed on several hosts over that on
one), `name`. Of public ones `job_id,user,num_gpu,submit_time,...,duration` (Microsoft's Philly cluster, as Chronus
has it) and `name,...,num_gpu,gpu_milli,...,creation_time,deletion_time,scheduled_time` (Alibaba 2023) are known by
their headers. Times count from the first submission.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from manyhands.errors import UserError
from manyhands.jobs.simulator.jobs import Trace

_MOST_WORKERS = 10**6


class _Row(NamedTuple):
    submitted: float
    workers: int
    seconds: float
    most: int = 0
    user: str = ""
    priority: int = 0
    kind: str = ""
    spread: float = 1.0
    name: str = ""


def read_trace(path: Path) -> Trace:
    """The jobs of a file, in the order of submission. Those that ask for no worker are left out, and counted.

    Raises:
        UserError: the file cannot be read, or a line is wrong; the text names it.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the trace {path}: {getattr(error, 'strerror', None) or error}.") from None
    lines = csv.DictReader(text.splitlines())
    fields = set(lines.fieldnames or ())
    reader = next((read for needed, read in _FORMATS if needed <= fields), None)
    if reader is None:
        known = "; ".join(",".join(sorted(needed)) for needed, _ in _FORMATS)
        raise UserError(
            f"{path}: its first line names the columns {','.join(sorted(fields))}; one of these sets is "
            f"needed: {known}."
        )
    rows: list[_Row] = []
    try:
        for line in lines:
            try:
                rows.append(_checked(reader(line)))
            except (ValueError, TypeError, KeyError) as error:
                raise UserError(f"{path}, line {lines.line_num}: {_reason(error)}") from None
    except csv.Error as error:
        raise UserError(f"{path}, line {lines.line_num}: {error}") from None
    return _trace(path.name, rows)


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, ValueError) else "it has too few columns."


def _number(line: Mapping[str, str], column: str, kind: Callable[[str], float] = float) -> float:
    text = line[column]
    if text is None:
        raise TypeError
    try:
        value = kind(text)
    except ValueError:
        raise ValueError(f"{column} is {text!r}, which is no number.") from None
    if not math.isfinite(value):
        raise ValueError(f"{column} is {text!r}.")
    return value


def _own(line: Mapping[str, str]) -> _Row:
    has = {column for column, text in line.items() if text}
    return _Row(
        submitted=_number(line, "submitted"),
        workers=int(_number(line, "workers", int)),
        seconds=_number(line, "seconds"),
        most=int(_number(line, "most", int)) if "most" in has else 0,
        user=line.get("user") or "",
        priority=int(_number(line, "priority", int)) if "priority" in has else 0,
        kind=line.get("kind") or "",
        spread=_number(line, "spread") if "spread" in has else 1.0,
        name=line.get("name") or "",
    )


def _philly(line: Mapping[str, str]) -> _Row:
    return _Row(
        submitted=60 * _number(line, "submit_time"),  # in minutes, as Chronus reads them
        workers=int(_number(line, "num_gpu")),
        seconds=60 * _number(line, "duration"),
        user=line["user"],
        kind=line["model_name"],
        name=line["job_id"],
    )


def _alibaba(line: Mapping[str, str]) -> _Row:
    ran = bool(line["scheduled_time"])  # others were never run: nobody knows how long they would have
    return _Row(
        submitted=_number(line, "creation_time"),
        workers=int(_number(line, "num_gpu", int)) if ran else 0,
        seconds=max(0.0, _number(line, "deletion_time") - _number(line, "scheduled_time")) if ran else 0.0,
        name=line["name"],
    )


_FORMATS: list[tuple[set[str], Callable[[Mapping[str, str]], _Row]]] = [
    ({"submitted", "workers", "seconds"}, _own),
    ({"job_id", "user", "num_gpu", "submit_time", "duration", "model_name"}, _philly),
    ({"name", "num_gpu", "creation_time", "deletion_time", "scheduled_time"}, _alibaba),
]


def _checked(row: _Row) -> _Row:
    if row.submitted < 0 or row.seconds < 0:
        raise ValueError("times cannot be below 0.")
    if not 0 <= row.workers <= _MOST_WORKERS:
        raise ValueError(f"{row.workers} is no number of workers.")
    if row.most and row.most < row.workers:
        raise ValueError(f"it can use {row.most} workers at most, and asks for {row.workers}.")
    if not 0 < row.spread <= 1:
        raise ValueError(f"spread is {row.spread:g}; it has to be above 0 and at most 1.")
    return row


def _trace(name: str, rows: list[_Row]) -> Trace:
    jobs = sorted((row for row in rows if row.workers), key=lambda row: row.submitted)
    users, user = np.unique([row.user for row in jobs] or np.zeros(0, dtype=str), return_inverse=True)
    kinds, kind = np.unique([row.kind for row in jobs] or np.zeros(0, dtype=str), return_inverse=True)
    least = np.array([row.workers for row in jobs], dtype=np.int64)
    return Trace(
        name=name,
        submitted=np.array([row.submitted - jobs[0].submitted for row in jobs], dtype=float),
        least=least,
        most=np.maximum(least, np.array([row.most for row in jobs], dtype=np.int64)),
        seconds=np.array([row.seconds for row in jobs], dtype=float),
        user=user.astype(np.int64),
        priority=np.array([row.priority for row in jobs], dtype=np.int64),
        kind=kind.astype(np.int64),
        spread=np.array([row.spread for row in jobs], dtype=float),
        names=[row.name or f"job-{number}" for number, row in enumerate(jobs)],
        users=[str(u) for u in users],
        kinds=[str(k) for k in kinds],
        left_out=len(rows) - len(jobs),
    )
