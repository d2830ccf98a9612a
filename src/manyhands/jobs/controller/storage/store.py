"""What survives the controller: jobs, who held which slot when, and its settings, in SQLite.

Every change is a transaction that is on disk before anybody is told of it (WAL, synchronous).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import manyhands.jobs.controller.checks as checks
from manyhands.errors import UserError
from manyhands.jobs.controller.storage.record import Job
from manyhands.jobs.controller.storage.rows import from_row, read_slots, to_row
from manyhands.jobs.controller.storage.submission import Submission

_TABLES = """
create table if not exists jobs (number integer primary key autoincrement, key text unique not null, row text not null);
create table if not exists stays (job integer not null, slots text not null, began real not null, ended real);
create index if not exists open_stays on stays (job) where ended is null;
create table if not exists settings (name text primary key, value text not null);
"""
_FORMAT = 1


@dataclass
class Stay:
    """A job on its slots for a while, in seconds since the epoch; `ended` is None while it is there."""

    job: int
    slots: tuple[int, ...]
    began: float
    ended: float | None


class Store:
    """The database of a controller.

    Raises:
        UserError: the file cannot be read, or a newer version wrote it.
        sqlite3.Error: by every method, if the database cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._base = sqlite3.connect(path, isolation_level=None)
            self._base.text_factory = lambda text: text.decode(errors="replace")
            self._base.execute("pragma journal_mode = wal")
            self._base.execute("pragma synchronous = full")
            (version,) = self._base.execute("pragma user_version").fetchone()
            if version > _FORMAT:
                raise UserError(f"{path} was written by a newer manyhands. Update this one.")
            self._base.executescript(_TABLES)
            self._base.execute(f"pragma user_version = {_FORMAT}")
        except sqlite3.Error as error:
            raise UserError(f"{path} cannot be used: {error}. Move it away to begin anew; no run is in it.") from None

    def add(self, submission: Submission, now: float) -> Job:
        """Write a new job down and return it; or return the one that the same request made before.

        Args:
            now: when it was submitted, in seconds since the epoch.
        """
        found = self._base.execute("select number, key, row from jobs where key = ?", (submission.key,)).fetchone()
        if found:
            return from_row(*found)
        with self._base:
            self._base.execute("begin immediate")
            cursor = self._base.execute("insert into jobs (key, row) values (?, '')", (submission.key,))
            assert cursor.lastrowid is not None
            job = Job(number=cursor.lastrowid, submitted=now, since=now, **asdict(submission))
            self._write(job)
        return job

    def save(self, *jobs: Job) -> None:
        """Write these jobs down, all of them or none."""
        if not jobs:
            return
        with self._base:
            self._base.execute("begin immediate")
            for job in jobs:
                self._write(job)

    def jobs(self) -> list[Job]:
        """All jobs, in the order of submission; one whose row is damaged has failed."""
        return [from_row(*found) for found in self._base.execute("select number, key, row from jobs order by number")]

    def holds(self, job: Job, now: float) -> None:
        """Write down that a job holds the slots that its record says from now on; what it held before ends.

        Args:
            now: seconds since the epoch.
        """
        with self._base:
            self._base.execute("begin immediate")
            self._base.execute("update stays set ended = ? where job = ? and ended is null", (now, job.number))
            if job.held:
                self._base.execute("insert into stays values (?, ?, ?, null)", (job.number, json.dumps(job.held), now))
            self._write(job)

    def stays(self) -> list[Stay]:
        """All stays, in the order in which they began; without those that are damaged."""
        found = self._base.execute("select job, slots, began, ended from stays order by rowid")
        return [stay for row in found if (stay := _stay(*row)) is not None]

    def setting(self, name: str) -> Any:
        """What a setting was set to; None if it was not, or if it is damaged."""
        found = self._base.execute("select value from settings where name = ?", (name,)).fetchone()
        try:
            return json.loads(found[0]) if found else None
        except (ValueError, TypeError, RecursionError):
            return None

    def slots(self) -> list[str]:
        """The host of each slot, as they were numbered; empty if that is not known."""
        found = self.setting("slots")
        return found if isinstance(found, list) and all(isinstance(name, str) for name in found) else []

    def set(self, settings: Iterable[tuple[str, Any]]) -> None:
        """Write settings down, by name; values are data for JSON."""
        with self._base:
            rows = [(name, json.dumps(value)) for name, value in settings]
            self._base.executemany("insert or replace into settings values (?, ?)", rows)

    def close(self) -> None:
        self._base.close()

    def _write(self, job: Job) -> None:
        self._base.execute("update jobs set row = ? where number = ?", (to_row(job), job.number))


def _stay(job: Any, slots: Any, began: Any, ended: Any) -> Stay | None:
    try:
        return Stay(
            checks.whole("job", job, 0, 1 << 62),
            read_slots(json.loads(slots)),
            checks.number("began", began),
            None if ended is None else checks.number("ended", ended),
        )
    except (UserError, ValueError, TypeError, RecursionError):
        return None
