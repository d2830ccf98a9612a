"""Lines that only grow: torn ones are cut, and a full disk loses none and keeps their order."""

import errno
import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyhands.run import Journal, read_journal


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """Nobody cuts the power here; that everything is synced, and in which order, is tested by its calls."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def lines(path) -> list[dict]:
    return list(read_journal(path))


def test_what_is_appended_is_there_at_once_and_after_closing(tmp_path):
    path = tmp_path / "ledger.jsonl"
    journal = Journal(path)
    for step in range(3):
        journal.append({"step": step, "text": "a\nb", "loss": 0.1})
        assert len(lines(path)) == step + 1
    journal.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [0, 1, 2]
    assert lines(tmp_path / "none.jsonl") == []


@settings(max_examples=60)
@given(st.integers(0, 5), st.integers(0, 9000), st.integers(1, 9000))
def test_a_torn_last_line_is_cut(tmp_path_factory, count, length, torn):
    path = tmp_path_factory.mktemp("journal") / "ledger.jsonl"
    whole = [{"step": step, "pad": "x" * length} for step in range(count)]
    content = b"".join(json.dumps(line).encode() + b"\n" for line in whole)
    path.write_bytes(content + json.dumps({"step": 99, "pad": "y" * 9000}).encode()[:torn])
    assert lines(path) == whole  # a reader skips it
    journal = Journal(path)
    assert path.read_bytes() == content
    journal.append({"step": count})
    journal.close()
    assert lines(path) == [*whole, {"step": count}]


def test_every_cut_of_a_journal_is_mended(tmp_path):
    path = tmp_path / "ledger.jsonl"
    content = b"".join(json.dumps({"step": step}).encode() + b"\n" for step in range(4))
    for cut in range(len(content) + 1):
        path.write_bytes(content[:cut])
        Journal(path).close()
        assert path.read_bytes() == content[: content.rfind(b"\n", 0, cut) + 1]


class Disk:
    """Stands between a journal and the disk: takes so many bytes and is then full."""

    def __init__(self, monkeypatch):
        self.room = 0
        self.write = os.write
        monkeypatch.setattr(os, "write", self)

    def __call__(self, descriptor: int, data) -> int:
        if self.room <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = self.write(descriptor, bytes(data)[: self.room])
        self.room -= written
        return written


@pytest.mark.parametrize("room", range(0, 40, 3))
def test_a_full_disk_keeps_the_lines_and_their_order(tmp_path, monkeypatch, room):
    troubles = []
    path = tmp_path / "ledger.jsonl"
    journal = Journal(path, troubles.append)
    disk = Disk(monkeypatch)
    disk.room = room
    for step in range(6):
        journal.append({"step": step})
    assert len(troubles) == 1 and "No space left" in troubles[0] and str(path) in troubles[0]
    assert [line["step"] for line in lines(path)] == list(range(len(lines(path))))
    assert journal.flush() is False
    journal.sync()
    disk.room = 10_000
    journal.append({"step": 6})
    assert [line["step"] for line in lines(path)] == list(range(7))
    assert len(troubles) == 2 and "can be written again" in troubles[1]
    disk.room = 0
    journal.append({"step": 7})
    disk.room = 10_000
    journal.close()
    assert [line["step"] for line in lines(path)] == list(range(8))


def test_a_device_that_is_really_full(tmp_path):
    path = tmp_path / "ledger.jsonl"
    path.symlink_to("/dev/full")
    troubles = []
    journal = Journal.__new__(Journal)
    journal.path, journal._on_trouble, journal._waiting, journal._failing = path, troubles.append, bytearray(), False
    journal._descriptor = os.open("/dev/full", os.O_WRONLY | os.O_CLOEXEC)
    journal.append({"step": 1})
    journal.append({"step": 2})
    assert journal._waiting == b'{"step":1}\n{"step":2}\n' and len(troubles) == 1
    os.close(journal._descriptor)
    good = tmp_path / "good.jsonl"
    journal._descriptor = os.open(good, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)
    journal.close()
    assert lines(good) == [{"step": 1}, {"step": 2}]


def test_a_disk_that_cannot_sync_is_no_error(tmp_path, monkeypatch):
    def fails(descriptor):
        raise OSError(errno.EIO, "Input/output error")

    journal = Journal(tmp_path / "ledger.jsonl")
    monkeypatch.setattr(os, "fsync", fails)
    journal.append({"step": 1})
    journal.sync()
    journal.close()
    assert lines(journal.path) == [{"step": 1}]
