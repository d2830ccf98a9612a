"""Whole or not at all: whatever fails and whenever, what carries the final name is good or is recognised."""

import errno
import hashlib
import json
import os
import random
import signal
import warnings
from pathlib import Path

import pytest

from manyhands.run import checkpoint as module
from manyhands.run import newest_checkpoint, prune, verify, write_checkpoint


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """Nobody cuts the power here; that everything is synced, and in which order, is tested by its calls."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


OLD, NEW = bytes(range(256)) * 40, bytes(reversed(range(256))) * 50


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def quiet(text: str) -> None:
    raise AssertionError(f"nothing is damaged, but: {text}")


def test_what_was_written_verifies(tmp_path):
    folder = tmp_path / "checkpoints"
    written = write_checkpoint(folder, 20, memoryview(NEW))
    assert written == newest_checkpoint(folder, quiet)
    assert written.path == folder / "step-00000020" and written.state.read_bytes() == NEW
    record = json.loads((written.path / "checkpoint.json").read_text())
    assert (record["step"], record["bytes"]) == (20, len(NEW))
    assert record["sha256"] == hashlib.sha256(NEW).hexdigest()
    assert names(folder) == ["step-00000020"]


def test_images_longer_than_a_chunk_and_empty_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", 1000)
    for step, image in enumerate([b"", NEW[:999], NEW[:1000], NEW[:1001], NEW]):
        assert write_checkpoint(tmp_path, step, memoryview(image)).state.read_bytes() == image
        assert newest_checkpoint(tmp_path, quiet).step == step


def test_the_newest_counts_by_step(tmp_path):
    for step in (9, 100, 20, 100_000_000):
        write_checkpoint(tmp_path, step, memoryview(OLD))
    assert newest_checkpoint(tmp_path, quiet).step == 100_000_000
    assert newest_checkpoint(tmp_path / "nothing", quiet) is None


def test_writing_a_step_again_replaces_it(tmp_path):
    write_checkpoint(tmp_path, 5, memoryview(OLD))
    assert write_checkpoint(tmp_path, 5, memoryview(NEW)).state.read_bytes() == NEW
    assert names(tmp_path) == ["step-00000005"] and verify(tmp_path / "step-00000005") is None


CALLS = ("open", "write", "fsync", "close", "mkdir", "rename", "rmdir", "unlink")
"""What changes the disk."""


def fail_at(patch, at: int, fail, after: bool) -> None:
    """Have the `at`-th call that changes the disk fail, before or after it has done its work."""
    count = 0

    def wrap(function):
        def call(*args, **kwargs):
            nonlocal count
            count += 1
            due = count == at
            if due and not after:
                fail()
            result = function(*args, **kwargs)
            if due:
                fail()
            return result

        return call

    for name in CALLS:
        patch.setattr(os, name, wrap(getattr(os, name)))


def prepare(folder, rewrites: bool) -> None:
    write_checkpoint(folder, 1, memoryview(OLD))
    if rewrites:
        write_checkpoint(folder, 2, memoryview(OLD))


def check(folder, done: bool) -> None:
    """What is believed is whole; what was done stays; and the next try works, whatever the last one left."""
    newest = newest_checkpoint(folder, lambda text: None)
    assert newest is not None
    contents = {1: [OLD], 2: [NEW] if done else [OLD, NEW]}
    assert newest.step == 2 or not done
    for path in folder.glob("step-*"):
        if verify(path) is None:
            assert (path / "state.safetensors").read_bytes() in contents[int(path.name[5:])]
    assert write_checkpoint(folder, 2, memoryview(NEW)).state.read_bytes() == NEW
    prune(folder, 5, 99)
    assert names(folder) == ["step-00000001", "step-00000002"]


@pytest.mark.parametrize("rewrites", [False, True])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_full_disk_at_any_call_leaves_old_or_new_and_nothing_false(tmp_path, after, rewrites):
    def fail():
        failed.append(True)
        raise OSError(errno.ENOSPC, "No space left on device")

    for at in range(1, 100):
        folder = tmp_path / f"{at}"
        prepare(folder, rewrites)
        failed, raised = [], False
        with pytest.MonkeyPatch.context() as patch:
            fail_at(patch, at, fail, after)
            try:
                write_checkpoint(folder, 2, memoryview(NEW))
            except OSError:
                raised = True
        assert not [name for name in names(folder) if name.startswith(".")] or not raised
        check(folder, done=not raised)
        if not failed:
            assert not raised and at > 12
            return
    raise AssertionError("there was no end to the calls")


@pytest.mark.parametrize("rewrites", [False, True])
def test_being_killed_at_any_call_leaves_old_or_new_and_nothing_false(tmp_path, rewrites):
    for at in range(1, 100):
        folder = tmp_path / f"{at}"
        prepare(folder, rewrites)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            try:
                fail_at(pytest.MonkeyPatch(), at, lambda: os.kill(os.getpid(), signal.SIGKILL), after=False)
                write_checkpoint(folder, 2, memoryview(NEW))
                os._exit(0)
            finally:
                os._exit(1)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert code in (0, -signal.SIGKILL)
        check(folder, done=code == 0)
        if code == 0:
            assert at > 12
            return
    raise AssertionError("there was no end to the calls")


def test_short_writes_are_continued(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, bytes(data)[:777]))
    assert write_checkpoint(tmp_path, 1, memoryview(NEW)).state.read_bytes() == NEW
    assert verify(tmp_path / "step-00000001") is None


def test_everything_is_synced_before_the_rename(tmp_path, monkeypatch):
    """The state, its record and the folder, then the rename, then the folder that holds it."""
    order, paths = [], {}
    real = {name: getattr(os, name) for name in ("open", "fsync", "rename")}

    def opened(path, *args, **kwargs):
        descriptor = real["open"](path, *args, **kwargs)
        paths[descriptor] = Path(path).name
        return descriptor

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(os, "fsync", lambda d: (order.append(paths[d]), real["fsync"](d)))
    monkeypatch.setattr(os, "rename", lambda a, b: (order.append("rename"), real["rename"](a, b)))
    write_checkpoint(tmp_path / "checkpoints", 3, memoryview(OLD))
    assert order == ["state.safetensors", "checkpoint.json", ".step-00000003.partial", "rename", "checkpoints"]


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(tmp_path):
    for step, image in ((1, OLD), (2, NEW), (3, NEW)):
        write_checkpoint(tmp_path, step, memoryview(image))
    state = bytearray(NEW)
    state[random.Random(0).randrange(len(state))] ^= 4
    (tmp_path / "step-00000003" / "state.safetensors").write_bytes(state)
    (tmp_path / "step-00000002" / "state.safetensors").write_bytes(NEW[:-1])
    damaged = []
    newest = newest_checkpoint(tmp_path, damaged.append)
    assert newest.step == 1
    assert len(damaged) == 2
    assert str(tmp_path / "step-00000003") in damaged[0] and "sha256" in damaged[0]
    assert str(tmp_path / "step-00000002") in damaged[1] and f"{len(NEW) - 1} bytes" in damaged[1]


@pytest.mark.parametrize(
    "record", [b"", b"{", b"[]", b"null", b"{}", b'{"bytes":5}', b'{"bytes":"x","sha256":1}', b"\xff\xfe"]
)
def test_a_damaged_record_is_a_damaged_checkpoint(tmp_path, record):
    write_checkpoint(tmp_path, 1, memoryview(OLD))
    (tmp_path / "step-00000001" / "checkpoint.json").write_bytes(record)
    damaged = []
    assert newest_checkpoint(tmp_path, damaged.append) is None
    assert len(damaged) == 1 and "step-00000001" in damaged[0]


@pytest.mark.parametrize("name", ["checkpoint.json", "state.safetensors"])
def test_a_missing_file_is_a_damaged_checkpoint(tmp_path, name):
    write_checkpoint(tmp_path, 1, memoryview(OLD))
    (tmp_path / "step-00000001" / name).unlink()
    assert name in verify(tmp_path / "step-00000001")


@pytest.mark.parametrize("keep", [1, 2, 10])
def test_prune_keeps_the_newest_and_sweeps_up(tmp_path, keep):
    for step in (1, 5, 30, 200):
        write_checkpoint(tmp_path, step, memoryview(OLD))
    (tmp_path / ".step-00000300.partial").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    prune(tmp_path, keep, 10**9)
    left = [f"step-{step:08d}" for step in (1, 5, 30, 200)][-keep:]
    assert names(tmp_path) == sorted(["notes.txt", *left])
    assert newest_checkpoint(tmp_path, quiet).step == 200
