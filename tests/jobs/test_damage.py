"""Damaged files and rows, and faults of our own: one job fails and says why, all others go on, also after a restart."""

import asyncio
import contextlib
import json
import os
import signal
import sqlite3

import pytest
from deadlines import DEADLINE
from hypothesis import given
from hypothesis import strategies as st
from test_orders import job as plain_job
from test_store import submission

from manyhands.errors import UsageError
from manyhands.jobs.controller import Home
from manyhands.jobs.controller.core import gangs
from manyhands.jobs.controller.core.books import Books
from manyhands.jobs.controller.core.cluster import Cluster
from manyhands.jobs.controller.core.controller import Controller
from manyhands.jobs.controller.processes.remains import DamagedError, Result, last_words, micro_batches, read_result
from manyhands.jobs.controller.storage.record import Status, Wish
from manyhands.jobs.controller.storage.rows import from_row, to_row
from manyhands.jobs.controller.storage.store import Store

NO_OBJECT = [b"", b"garbage", b"\xff\xfe\x00", b"{", b"[]", b"3", b"null", b'"x"', b"[" * 100_000, b"\0" * 100]
BAD_RESULTS = [
    *NO_OBJECT,
    b"{}",
    b'{"status": 3}',
    b'{"status": "done"}',
    b'{"status": "finished"}',
    b'{"status": "finished", "steps": "9", "durable_step": 9, "weights_sha256": "w"}',
    b'{"status": "finished", "steps": 9, "durable_step": NaN, "weights_sha256": "w"}',
    b'{"status": "finished", "steps": 9, "durable_step": true, "weights_sha256": "w"}',
    b'{"status": "finished", "steps": 9, "durable_step": 9, "weights_sha256": ["w"]}',
    b'{"status": "finished", "steps": 9, "durable_step": 9}',
    b'{"status": "stopped", "steps": -1}',
    b'{"status": "stopped", "steps": ' + b"9" * 30 + b"}",
    b'{"status": "failed"}',
    b'{"status": "failed", "error": {"a": 1}}',
]
BAD_RUNS = [*NO_OBJECT, b"{}", b'{"job": 3}', b'{"job": {}}', b'{"job": {"micro_batches": "4"}}',
            b'{"job": {"micro_batches": 0}}']  # fmt: skip


@pytest.mark.parametrize("content", BAD_RESULTS)
def test_a_damaged_result_is_named(tmp_path, content):
    path = tmp_path / "result.json"
    path.write_bytes(content)
    with pytest.raises(DamagedError, match=r"result\.json is damaged"):
        read_result(path)


@pytest.mark.parametrize("content", BAD_RUNS)
def test_a_damaged_run_is_named(tmp_path, content):
    path = tmp_path / "run.json"
    path.write_bytes(content)
    with pytest.raises(DamagedError, match=r"run\.json is damaged"):
        micro_batches(path)


def test_what_is_whole_is_read_and_what_is_not_there_is_nothing(tmp_path):
    path = tmp_path / "x.json"
    assert read_result(path) == Result() and micro_batches(path) is None and last_words(path) == ""
    path.write_text('{"status": "failed", "steps": 3, "total_steps": 9, "weights_sha256": null, "error": "\\ud800 no"}')
    assert read_result(path) == Result(status="failed", steps=3, total_steps=9, error="\\ud800 no")
    path.write_text('{"job": {"micro_batches": 4}}')
    assert micro_batches(path) == 4
    path.unlink()
    path.mkdir()
    with pytest.raises(DamagedError, match="cannot be read"):
        read_result(path)


def test_of_a_long_output_only_the_end_is_read(tmp_path):
    path = tmp_path / "output.txt"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a hole
        file.seek(0, os.SEEK_END)
        file.write(b"\xff\nmanyhands: it had no memory\n")
    assert last_words(path) == "it had no memory"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["running", "pause", "/x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from(list(json.loads(to_row(plain_job(1)))))


@given(changed=st.dictionaries(FIELDS, VALUES, max_size=4) | VALUES)
def test_any_row_is_a_job_that_all_others_can_live_with(changed):
    whole = json.loads(to_row(plain_job(7))) | {"file": "/x"}
    row = json.dumps(whole | changed if isinstance(changed, dict) else changed)
    job = from_row(7, "k", row)
    assert job.number == 7
    assert from_row(7, "k", to_row(job)) == job or not job.file
    json.dumps(to_row(job), allow_nan=False)
    assert abs(job.priority) < 2**31 and 1 <= job.least <= job.most < 2**31


@pytest.mark.parametrize("row", [None, 3, b"\xff", "", "{", "[]", "[" * 100_000, '{"priority": 1e999}'])
def test_a_row_that_is_none_is_a_job_that_has_failed(row):
    job = from_row(7, "k", row)
    assert job.status is Status.FAILED and "is damaged" in job.error and job.file == ""


class Place:
    """A home with a database, and controllers on it that start nothing."""

    def __init__(self, path) -> None:
        self.home = Home(path)
        path.mkdir()

    def add(self, *keys: str, **fields):
        """Jobs in the database, as a controller left them."""
        store = Store(self.home.database)
        store.set([("slots", ["here", "here"])])
        for key in keys:
            job = store.add(submission(key, most=1), 1.0)
            for name, value in fields.items():
                setattr(job, name, value)
            store.save(job)
            self.home.job(job.number).run.path.mkdir(parents=True)
        store.close()

    def change(self, statement: str, *values) -> None:
        with contextlib.closing(sqlite3.connect(self.home.database)) as base, base:
            base.execute(statement, values)

    def rounds(self, act=lambda controller: None) -> list[dict]:
        """The jobs after some rounds of a controller; `act` is called after the first."""

        async def rounds():
            store = Store(self.home.database)
            cluster = Cluster(store.slots())
            cluster.become({"here": 2})
            cluster.come("here")
            controller = Controller(Books.open(self.home, store, cluster), "priority+elastic+pack", tick=0.01)
            running = asyncio.create_task(controller.run())
            try:
                await asyncio.wait_for(controller.begun.wait(), DEADLINE)
                act(controller)
                for _ in range(5):
                    shown = controller.show()
                    controller._bell.ring(decide=True)
                    shown = await controller.after(shown["version"], DEADLINE)
                json.dumps([shown, controller.history()], allow_nan=False)
                assert not running.done(), "the loop goes on"
            finally:
                controller.close()
                await asyncio.wait_for(running, DEADLINE)
                store.close()
            return shown["jobs"]

        return asyncio.run(rounds())


@pytest.fixture
def place(tmp_path) -> Place:
    return Place(tmp_path / "home")


@pytest.fixture
def launched(monkeypatch) -> list[str]:
    """Which jobs' directories were launched in; nothing is."""
    found: list[str] = []

    def launch(files, *arguments, **options):
        found.append(files.path.name)
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(gangs, "launch", launch)
    return found


@pytest.mark.parametrize("content", BAD_RESULTS)
def test_a_damaged_result_is_its_jobs_trouble_alone(place, launched, content):
    place.add("a", status=Status.RUNNING, target=(0,), held=(0,))
    place.add("b")
    place.home.job(1).run.result.write_bytes(content)
    for _ in range(2):
        first, second = place.rounds()
        assert first["status"] == "failed" and "result.json is damaged" in first["error"]
        assert second["status"] == "failed" and "cannot start it" in second["error"], "it was taken care of"
    assert launched == ["2"]


@pytest.mark.parametrize("content", BAD_RUNS)
def test_a_damaged_run_is_its_jobs_trouble_alone(place, launched, content):
    place.add("a", "b")
    place.home.job(1).run.run.write_bytes(content)
    first, _ = place.rounds()
    assert first["status"] == "failed" and "run.json is damaged" in first["error"]
    assert launched == ["2"]


BAD_FIELDS = {
    "priority": 2**63, "least": 2**63, "most": "9", "target": [2**70], "held": [-1], "name": "caf\udce9", "file": 3,
    "flags": [], "arguments": "abc", "status": "well", "wish": None, "submitted": float("nan"), "step": {}, "since": [],
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_FIELDS)
def test_a_damaged_row_is_its_jobs_trouble_alone(place, launched, name):
    place.add("a", "b")
    row = json.loads(to_row(plain_job(1))) | {"file": "/x"} | {name: BAD_FIELDS[name]}
    place.change("update jobs set row = ? where number = 1", json.dumps(row))
    first, second = place.rounds()
    assert first["status"] == "failed" and "its record in the database is damaged" in first["error"]
    assert second["status"] == "failed" and launched == ["2"]
    with contextlib.closing(sqlite3.connect(place.home.database)) as base:
        (kept,) = base.execute("select row from jobs where number = 1").fetchone()
    assert kept == json.dumps(row), "what somebody may want to mend stays"

    def resume(controller):
        with pytest.raises(UsageError, match="cannot be gone on with: its record"):
            controller.wish(1, Wish.RUN)

    place.rounds(resume)


@pytest.mark.parametrize("value", ["{", "3", '"x"', "[3]", "[[1]]", '[["a", "b", "c", "d", "e"]]', "null", '{"a": 1}'])
def test_damaged_settings_are_forgotten(place, launched, value):
    place.add("a", status=Status.RUNNING, target=(1,), held=(1,))
    for name in ("slots", "pairs", "rates", "peaks", "slot files"):
        place.change("insert or replace into settings values (?, ?)", name, value)
    place.change("insert into stays values (1, ?, 1.0, null)", value)
    place.change("insert into stays values (1, '[7]', 'x', 2.0)")
    (job,) = place.rounds()
    assert job["status"] in ("waiting", "failed")


def test_a_fault_in_what_is_done_for_one_job_is_that_jobs(place, launched, monkeypatch, capfd):
    place.add("a", "b")
    launch = gangs.Gangs.launch
    monkeypatch.setattr(gangs.Gangs, "launch", lambda self, job: 1 / 0 if job.number == 1 else launch(self, job))
    first, _ = place.rounds()
    assert first["status"] == "failed" and "could not handle it: ZeroDivisionError" in first["error"]
    assert launched == ["2"]
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_a_policy_that_fails_ends_nothing(place, launched, capfd):
    def broken(state):
        raise RuntimeError("no policy")

    def act(controller):
        controller._policy = broken
        controller.submit(submission("b", most=1))

    place.add("a", wish=Wish.PAUSE, status=Status.PAUSED)
    assert [job["status"] for job in place.rounds(act)] == ["paused", "waiting"]
    said = capfd.readouterr().err
    assert said.count("RuntimeError: no policy") == 1, "once, not with every tick"


def test_a_disk_that_is_full_for_a_while_blames_no_job(place, launched, monkeypatch):
    place.add("a", status=Status.RUNNING, target=(0,), held=(0,))
    place.home.job(1).run.result.write_text('{"status": "stopped", "steps": 3}')
    write, failures = Store._write, iter(range(4))

    def full(self, job):
        if next(failures, None) is not None:
            raise sqlite3.OperationalError("database or disk is full")
        write(self, job)

    monkeypatch.setattr(Store, "_write", full)
    (job,) = place.rounds()
    assert job["status"] == "paused" and job["step"] == 3
    monkeypatch.undo()
    (job,) = place.rounds()
    assert job["status"] == "paused", "it was written in the end"


def test_garbage_that_a_killed_supervisor_left_harms_no_other_job(home, tmp_path):
    """Two jobs run; the controller and one supervisor are killed, and the result that it left is garbage."""
    pytest.importorskip("starlette", reason="starlette is not installed")
    from support import Brake

    brake = Brake(tmp_path / "brake", 300, 0.01)
    home.up("--slots", 2)
    numbers = [home.submit(job=("--steps=304", *brake.job)) for _ in range(2)]
    first, second = (home.until_job(number, "running", step=1) for number in numbers)
    home.kill_controller()
    os.kill(first["supervisor"], signal.SIGKILL)
    (home.path / "jobs/1/run/result.json").write_text("garbage")
    home.up("--slots", 2)
    failed = home.until_job(1, "failed")
    assert "result.json is damaged: it is not JSON" in failed["error"]
    assert home.until_job(2, "running", step=second["step"])["supervisor"] == second["supervisor"]
    home.do("resume", 1)
    assert home.until_job(1, "running", step=1)["error"] == ""
    for number in numbers:
        home.do("cancel", number)
    brake.release()
