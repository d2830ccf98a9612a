"""A new job, as a client describes it: every field has a type and a bound, and what has not is refused in a sentence.

A job that was taken is in the database for ever, and every policy sees it: what could harm it has to be turned away
here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from typing import Any

import manyhands.jobs.controller.checks as checks
from manyhands.errors import UsageError

WORKERS = 100_000
"""The most workers that may be asked for."""
PRIORITY = 1_000_000
"""The highest priority; the lowest is as far below 0."""
TITLE = 200
"""The most characters of a name, a user or a key."""
ARGUMENTS = 10_000
ARGUMENT = 100_000
"""The most characters of an argument; Linux takes 128 KiB."""
FLAGS = 50
_FLAG = re.compile(r"[a-z][a-z0-9_-]{0,39}")
_OURS = {"workers", "hosts", "run_dir", "resume"}
"""Flags that the controller gives itself."""


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What a client says of a new job, checked; the fields are those of `Job`."""

    key: str
    file: str
    arguments: list[str]
    cwd: str
    name: str
    user: str
    least: int
    most: int
    priority: int = 0
    flags: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def read(data: dict[str, Any]) -> Submission:
        """The submission that a request holds.

        Raises:
            UsageError: a field is missing, unknown, of another kind or out of bounds; says which.
        """
        try:
            return _read(data)
        except UsageError as error:
            raise UsageError(f"a job cannot be submitted like this: {error}") from None


def _read(data: dict[str, Any]) -> Submission:
    known = {item.name for item in fields(Submission)}
    if unknown := sorted(set(data) - known):
        raise UsageError(f"there is no field {ascii(unknown[0])[:TITLE]}.")
    if missing := known - {"priority", "flags"} - set(data):
        raise UsageError(f"{', '.join(sorted(missing))} is missing.")
    least = checks.whole("the fewest workers", data["least"], 1, WORKERS)
    return Submission(
        key=checks.text("key", data["key"], TITLE),
        file=checks.path("the job file", data["file"]),
        arguments=arguments(data["arguments"]),
        cwd=checks.path("the working directory", data["cwd"]),
        name=checks.text("name", data["name"], TITLE),
        user=checks.text("user", data["user"], TITLE),
        least=least,
        most=checks.whole("the most workers", data["most"], least, WORKERS),
        priority=checks.whole("priority", data.get("priority", 0), -PRIORITY, PRIORITY),
        flags=flags(data.get("flags", {})),
    )


def arguments(value: Any) -> list[str]:
    """The arguments of a job, which follow `--` on the command line.

    Raises:
        UsageError: the value is no list of texts that a program can be given.
    """
    found = checks.sequence("arguments", value, ARGUMENTS)
    return [checks.text("an argument", each, ARGUMENT, empty=True, lines=True) for each in found]


def flags(value: Any) -> dict[str, str]:
    """Flags of `manyhands train`, and what each is set to.

    Raises:
        UsageError: a name can be none, belongs to the controller, or the value is no text.
    """
    found = checks.table("flags", value, FLAGS)
    for name in found:
        if _FLAG.fullmatch(name) is None or name.replace("-", "_") in _OURS:
            raise UsageError(f"{ascii(name)[:TITLE]} is no flag that a submission may set.")
    return {name: checks.text(f"--{name}", each, checks.LONGEST_PATH) for name, each in found.items()}
