"""The files by which jobs on a slot take turns are nobody else's, wherever others may make files too."""

import contextlib
import json
import os
import sqlite3
from pathlib import Path

import pytest

from manyhands.jobs.controller.sharing.slot_files import SlotFiles
from manyhands.jobs.controller.storage.store import Store


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "jobs.sqlite")
    yield store
    store.close()


@pytest.fixture
def shared(tmp_path) -> Path:
    (tmp_path / "shm").mkdir()
    (tmp_path / "shm").chmod(0o1777)
    return tmp_path / "shm"


def test_nobody_can_guess_where_they_are(shared, tmp_path):
    names = set()
    for home in range(2):
        store = Store(tmp_path / "jobs.sqlite")
        names.add(SlotFiles(store, shared).of(3).parent.name)
        store.close()
        (tmp_path / "jobs.sqlite").rename(tmp_path / f"{home}.sqlite")
    assert len(names) == 2 and all(len(name) >= 32 for name in names)
    assert all(path.stat().st_mode & 0o777 == 0o700 for path in shared.iterdir())


def test_another_controller_of_the_home_has_the_same(shared, store):
    first = SlotFiles(store, shared).of(0)
    first.write_text("")
    assert SlotFiles(store, shared).of(0) == first
    SlotFiles(store, shared).remove()
    assert list(shared.iterdir()) == []
    assert SlotFiles(store, shared).of(0) == first, "other hosts keep no second folder"


@pytest.mark.parametrize("squat", ["open", "link", "file", "stranger's"])
def test_a_name_that_somebody_else_took_is_given_up(shared, store, tmp_path, squat):
    files = SlotFiles(store, shared)
    folder = files.of(0).parent
    folder.rmdir()
    precious = tmp_path / "precious"
    precious.mkdir(mode=0o700)
    (precious / "slot-0").write_text("precious")
    match squat:
        case "open":
            folder.mkdir()
            folder.chmod(0o777)
        case "link":
            folder.symlink_to(precious)
        case "file":
            folder.write_text("")
        case _:
            if os.geteuid() != 0:
                pytest.skip("only root can give a folder away")
            folder.mkdir(mode=0o700)
            os.chown(folder, 65534, 65534)
    files.remove()
    other = files.of(0).parent
    assert other != folder and other.stat().st_uid == os.geteuid() and other.stat().st_mode & 0o777 == 0o700
    assert SlotFiles(store, shared).of(0).parent == other
    files.remove()
    assert folder in shared.iterdir() or folder.is_symlink(), "it is not ours to remove"
    assert (precious / "slot-0").read_text() == "precious"


@pytest.mark.parametrize("setting", [None, 3, "", "../../etc", "manyhands-/../x", [], {"a": 1}])
def test_a_damaged_setting_leads_nowhere(shared, store, setting):
    store.set([("slot files", setting)])
    assert SlotFiles(store, shared).of(0).parent.parent == shared


def test_nothing_is_left_in_shared_memory_after_down(home, tmp_path):
    pytest.importorskip("starlette", reason="starlette is not installed")
    from home import JOB
    from support import Brake

    brake = Brake(tmp_path / "brake", 10_000, 0.01)
    home.up("--slots", 1, "--policy", "priority+elastic+pack")
    other = tmp_path / "other.py"
    other.write_text(JOB.read_text())
    (tmp_path / "brake.py").write_text((JOB.parent / "brake.py").read_text())
    for file in (JOB, other):
        home.submit(file=file, job=("--steps=10004", *brake.job))
    home.until(lambda shown: any(job["shares"] not in (None, "unknown") for job in shown["jobs"]), "two to share")
    with contextlib.closing(sqlite3.connect(home.path / "jobs.sqlite")) as base:
        (value,) = base.execute("select value from settings where name = 'slot files'").fetchone()
    folder = Path("/dev/shm") / json.loads(value)
    home.until(lambda shown: (folder / "slot-0").exists(), "the slot's file")
    assert folder.stat().st_mode & 0o777 == 0o700
    home.do("down")
    assert not folder.exists()
