"""`manyhands logs` of a run in a directory; of jobs: tests/jobs/test_controller.py."""

import threading
import time

from deadlines import DEADLINE

from manyhands.cli.main import run
from manyhands.run import RunDirectory


def test_what_a_run_printed_and_what_it_prints_until_it_is_over(tmp_path, capsys):
    directory = RunDirectory(tmp_path / "run")
    directory.create()
    directory.run.write_text("{}")
    directory.log.write_text("first\n")
    assert run(["logs", str(directory.path)]) == 0
    assert capsys.readouterr().out == "first\n"
    assert run(["logs", str(directory.path), "--follow"]) == 0, "nobody works on it"
    assert capsys.readouterr().out == "first\n"


def test_following(tmp_path, capsys, monkeypatch):
    directory = RunDirectory(tmp_path / "3")
    directory.create()
    directory.run.write_text("{}")
    directory.log.write_text("first\n")
    over = threading.Event()
    monkeypatch.setattr(RunDirectory, "is_live", lambda self: not over.is_set())
    monkeypatch.chdir(tmp_path)
    following = threading.Thread(target=run, args=(["logs", "3", "-f"],))  # a directory by that name comes before a job
    following.start()
    said = ""
    while "first" not in said:
        said += capsys.readouterr().out
        time.sleep(0.01)
    with directory.log.open("a") as log:
        log.write("second\n")
    over.set()
    following.join(DEADLINE)
    assert said + capsys.readouterr().out == "first\nsecond\n"
