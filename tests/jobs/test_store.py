"""What survives a controller."""

import sqlite3

import pytest

from manyhands.errors import UserError
from manyhands.jobs.controller.storage.record import Status, Wish
from manyhands.jobs.controller.storage.store import Store
from manyhands.jobs.controller.storage.submission import Submission


def submission(key="k", **changed):
    about = {"key": key, "file": "/job.py", "arguments": ["--x"], "cwd": "/", "name": "n", "user": "u"}
    return Submission.read(about | {"least": 1, "most": 2} | changed)


def test_jobs_and_stays_are_there_again(tmp_path):
    store = Store(tmp_path / "jobs.sqlite")
    job = store.add(submission(), 5.0)
    job.wish, job.status, job.target, job.held = Wish.PAUSE, Status.RUNNING, (1, 2), (0, 1, 2)
    store.holds(job, 6.0)
    job.held = (1, 2)
    store.holds(job, 8.0)
    store.set([("slots", ["a", "b"])])
    store.close()
    again = Store(tmp_path / "jobs.sqlite")
    assert again.jobs() == [job]
    assert [(s.slots, s.began, s.ended) for s in again.stays()] == [((0, 1, 2), 6.0, 8.0), ((1, 2), 8.0, None)]
    assert again.setting("slots") == ["a", "b"]
    assert again.setting("nothing") is None


def test_a_request_sent_twice_makes_one_job(tmp_path):
    store = Store(tmp_path / "jobs.sqlite")
    assert store.add(submission("a"), 1.0).number == store.add(submission("a"), 2.0).number == 1
    assert store.add(submission("b"), 2.0).number == 2


def test_a_file_that_is_no_database_is_named(tmp_path):
    path = tmp_path / "jobs.sqlite"
    path.write_text("this is not a database, " * 100)
    with pytest.raises(UserError, match=r"jobs\.sqlite cannot be used"):
        Store(path)


def test_a_newer_format_is_left_alone(tmp_path):
    path = tmp_path / "jobs.sqlite"
    base = sqlite3.connect(path)
    base.execute("pragma user_version = 99")
    base.close()
    with pytest.raises(UserError, match="newer manyhands"):
        Store(path)
