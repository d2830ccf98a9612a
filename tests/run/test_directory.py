"""The run directory: one supervisor at a time, commands over its socket, files whole or not at all."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from deadlines import DEADLINE

from manyhands.errors import UsageError, UserError
from manyhands.run import (
    COMMANDS,
    Done,
    Refused,
    Resize,
    RunDirectory,
    Show,
    Status,
    Stop,
    new_directory,
    read_json,
    write_json,
)
from manyhands.wire import encode

HOLDER = """
import sys, time
from pathlib import Path
from manyhands.run import RunDirectory
RunDirectory(Path(sys.argv[1])).acquire()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that supervises the directory."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate(timeout=DEADLINE)


def test_a_second_supervisor_is_refused_and_told_who_the_first_is(tmp_path, holder):
    directory = RunDirectory(tmp_path)
    assert directory.is_live()
    with pytest.raises(UsageError) as error:
        directory.acquire()
    for word in (str(tmp_path), f"process {holder.pid}", "manyhands stop"):
        assert word in str(error.value)
    assert directory.is_live()


def test_a_killed_supervisor_leaves_the_directory_free(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait(DEADLINE)
    directory = RunDirectory(tmp_path)
    assert not directory.is_live()
    directory.acquire()
    assert (tmp_path / "lock").read_text() == str(os.getpid())
    assert directory.is_live()
    assert RunDirectory(tmp_path).is_live()
    os.close(directory._lock)
    assert not directory.is_live()


def test_looking_whether_it_is_live_is_no_supervisor(tmp_path):
    directory = RunDirectory(tmp_path)
    assert not directory.is_live()
    assert list(tmp_path.iterdir()) == []
    directory.acquire()
    os.close(directory._lock)
    assert not directory.is_live()
    directory.acquire()
    os.close(directory._lock)


def test_creating(tmp_path):
    directory = RunDirectory(tmp_path / "deep" / "run")
    directory.create()
    assert directory.checkpoints.is_dir()
    directory.create()  # an empty one is no run yet
    with pytest.raises(UsageError, match=r"holds no run.*run\.json"):
        RunDirectory.open(directory.path)
    write_json(directory.run, {"format": 1})
    assert RunDirectory.open(directory.path).path == directory.path
    with pytest.raises(UsageError, match=f"holds a run already.*--resume {directory.path}"):
        directory.create()


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot make the run directory .*file/run"):
        RunDirectory(tmp_path / "file" / "run").create()


def said(answer):
    return json.dumps(encode(answer)).encode()


def serve(directory: RunDirectory, answer) -> threading.Thread:
    listener = directory.listen()

    def work():
        with listener:
            listener.settimeout(DEADLINE)
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(DEADLINE)
                request = json.loads(connection.recv(1 << 16))
                connection.send(answer(request) if callable(answer) else answer)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("depth", [0, 30])
def test_a_command_is_answered_also_where_the_path_is_long(tmp_path, depth):
    path = tmp_path.joinpath(*["a-rather-long-name"] * depth)
    path.mkdir(parents=True, exist_ok=True)
    directory = RunDirectory(path)
    thread = serve(directory, lambda request: said(Done(resizes=COMMANDS.decode(request).workers)))
    assert RunDirectory(path).ask(Resize(workers=7), Done) == Done(resizes=7)
    thread.join(DEADLINE)
    thread = serve(directory, said(Done(2)))  # listening again takes the old socket's place
    assert directory.ask(Stop(), Done) == Done(2)
    thread.join(DEADLINE)


NONSENSE = (b"", b"[]", b'{"ok": true}', b'{"kind": "done", "more": 1}', b'{"kind": "done"', b"[" * 5000)


@pytest.mark.parametrize("answer", NONSENSE, ids=lambda answer: str(answer[:20]))
def test_nonsense_is_no_answer(tmp_path, answer):
    directory = RunDirectory(tmp_path)
    thread = serve(directory, answer)
    with pytest.raises(UserError, match=str(tmp_path)):
        directory.ask(Stop(), Done)
    thread.join(DEADLINE)


def test_an_answer_to_something_else_is_none(tmp_path):
    directory = RunDirectory(tmp_path)
    thread = serve(directory, said(Done()))
    with pytest.raises(UserError, match="answered something else"):
        directory.show()
    thread.join(DEADLINE)


def test_a_refusal_is_an_error(tmp_path):
    directory = RunDirectory(tmp_path)
    thread = serve(directory, said(Refused("no such worker")))
    with pytest.raises(UserError, match=r"^no such worker$"):
        directory.ask(Resize(), Done)
    thread.join(DEADLINE)


def test_no_supervisor(tmp_path):
    directory = RunDirectory(tmp_path)
    with pytest.raises(UserError, match=f"no running supervisor.*--resume {tmp_path}"):
        directory.show()
    directory.listen().close()  # a socket that a crash has left
    with pytest.raises(UserError, match="no running supervisor"):
        directory.show()


def test_one_that_does_not_answer(tmp_path):
    directory = RunDirectory(tmp_path)
    with directory.listen(), pytest.raises(UserError):
        directory.ask(Show(), Status, timeout=0.05)


def test_json_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    assert read_json(path) == {}
    write_json(path, {"a": 1})
    write_json(path, {"a": 2, "b": [None, 1.5]})
    assert read_json(path) == {"a": 2, "b": [None, 1.5]}

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_json(path, {"a": 3})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert read_json(path)["a"] == 2


def test_runs_that_begin_in_one_second_have_directories_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("manyhands.run.directory.time.strftime", lambda form: "now")
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: new_directory("job"), range(32)))
    assert len(set(paths)) == 32 and all(path.is_dir() for path in paths)
    assert Path("runs/job-now") in paths and Path("runs/job-now-32") in paths


def test_a_default_directory_that_cannot_be_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(UsageError, match="cannot make the run directory runs/job"):
        new_directory("job")
