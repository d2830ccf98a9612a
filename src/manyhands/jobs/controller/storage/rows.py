"""A job as a row of the database, and back: a damaged row is a job that has failed, and harms no other."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import Any

import manyhands.jobs.controller.checks as checks
from manyhands.errors import UserError
from manyhands.jobs.controller.storage.record import Job, Status, Wish
from manyhands.jobs.controller.storage.submission import ARGUMENT, ARGUMENTS, PRIORITY, WORKERS

_SLOTS = 1_000_000
_LARGE = 1 << 53
"""Whole numbers up to here are the same in every language that reads JSON."""


def to_row(job: Job) -> str:
    """A job as the text that the database keeps."""
    return json.dumps(asdict(job))


def from_row(number: int, key: str, row: Any) -> Job:
    """The job that a row keeps; if the row is damaged, one that has failed and says so."""
    values: dict[str, Any] = {}
    try:
        values = checks.table("the row", json.loads(row), 100)
        return _read(number, key, values)
    except (UserError, ValueError, TypeError, RecursionError) as error:
        why = str(error) if isinstance(error, UserError) else "it is not JSON."
        return _damaged(number, key, values, why)


def read_slots(value: Any) -> tuple[int, ...]:
    """The numbers of slots that a value of the database lists.

    Raises:
        UserError: the value is something else.
    """
    return tuple(checks.whole("a slot", slot, 0, _SLOTS) for slot in checks.sequence("slots", value, _SLOTS))


def _read(number: int, key: str, values: dict[str, Any]) -> Job:
    """The job that a row keeps, every field checked: policies and the page take them as they are."""

    def words(name: str, default: str | None = None) -> str:
        return checks.text(name, values.get(name, default), 1 << 20, empty=True, lines=True)

    def count(name: str, most: int = _LARGE, least: int = 0, default: int | None = None) -> int:
        return checks.whole(name, values.get(name, default), least, most)

    def moment(name: str, default: float | None = None) -> float:
        return checks.number(name, values.get(name, default))

    fewest = count("least", WORKERS, 1)
    return Job(
        number=number,
        key=key,
        name=words("name"),
        file=checks.text("file", values.get("file"), checks.LONGEST_PATH, lines=True),
        arguments=[
            checks.text("an argument", each, ARGUMENT, empty=True, lines=True)
            for each in checks.sequence("arguments", values.get("arguments"), ARGUMENTS)
        ],
        cwd=words("cwd"),
        flags={name: _flag(name, each) for name, each in checks.table("flags", values.get("flags"), 100).items()},
        least=fewest,
        most=count("most", WORKERS, fewest),
        priority=count("priority", PRIORITY, -PRIORITY),
        user=words("user"),
        submitted=moment("submitted"),
        wish=Wish(values.get("wish", Wish.RUN)),
        status=Status(values.get("status", Status.WAITING)),
        target=read_slots(values.get("target", ())),
        held=read_slots(values.get("held", ())),
        guest=checks.truth("guest", values.get("guest", False)),
        halting=checks.truth("halting", values.get("halting", False)),
        since=moment("since", 0.0),
        ended=None if values.get("ended") is None else moment("ended"),
        losses=count("losses", default=0),
        step=count("step", default=0),
        total_steps=count("total_steps", default=0),
        error=words("error", ""),
        weights=None if values.get("weights") is None else words("weights"),
    )


def _flag(name: str, value: Any) -> str:
    return checks.text(f"--{checks.text('a flag', name, 100)}", value, checks.LONGEST_PATH, lines=True)


def _damaged(number: int, key: str, values: dict[str, Any], why: str) -> Job:
    """A job whose row is damaged, as far as it is known; it has no file, so it cannot be run."""

    def known(name: str) -> str:
        try:
            return checks.text(name, values.get(name), 1000)
        except UserError:
            return "?"

    now = time.time()
    error = f"its record in the database is damaged: {why} Submit it again; what it has trained is kept."
    return Job(
        number=number, key=key, name=known("name"), file="", arguments=[], cwd="", flags={}, least=1, most=1,
        priority=0, user=known("user"), submitted=now, status=Status.FAILED, ended=now, error=error,
    )  # fmt: skip
