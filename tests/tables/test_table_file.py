"""A table in a mapped file: what it reads and writes, what it takes on disk and in memory, and what it refuses."""

import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from deadlines import DEADLINE
from hypothesis import given, settings
from hypothesis import strategies as st
from table_models import MemoryTable, content, same, some_rows, spec_of

from manyhands.errors import UsageError
from manyhands.tables import RowAdagrad, RowAdam, RowSGD, TableError, TableFile, TableSpec, marks, roll_back
from manyhands.tables.header import Slot
from manyhands.tables.initial import initial_rows


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """Nobody cuts the power here."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: None)


@settings(max_examples=40)
@given(st.integers(0, 2**31), st.sampled_from([RowSGD(lr=0.1), RowAdagrad(lr=0.1, initial=0.5), RowAdam(lr=0.1)]))
def test_it_is_a_table(tmp_path_factory, seed, optimizer):
    random = np.random.default_rng(seed)
    spec = spec_of(rows=int(random.integers(1, 60)), width=int(random.integers(1, 20)), optimizer=optimizer)
    path = tmp_path_factory.mktemp("table") / "a.table"
    table = MemoryTable(spec)
    for _ in range(2):  # closed and opened
        file = TableFile(path, spec)
        for _ in range(3):
            ids, grads = some_rows(random, spec.rows, spec.width)
            file.update(ids, grads, 0.5)
            table.update(ids, grads, 0.5)
            again = torch.from_numpy(random.integers(0, spec.rows, 9))
            assert file.read(again).numpy().tobytes() == table.values[again.numpy()].tobytes()
        same(file, table)
        file.close()


def test_many_rows_at_once(tmp_path):
    spec = spec_of(rows=30_000, width=3, optimizer=RowAdam(lr=0.1))
    file, table = TableFile(tmp_path / "a.table", spec), MemoryTable(spec)
    ids = torch.randperm(30_000)[:20_000]
    grads = torch.randn(20_000, 3)
    file.update(ids, grads)
    table.update(ids, grads)
    same(file, table)
    file.close()


def test_a_read_is_a_copy(tmp_path):
    file = TableFile(tmp_path / "a.table", spec_of())
    ids = torch.tensor([3, 3, 4])
    file.update(ids[1:], torch.ones(2, 4))
    rows = file.read(ids)
    before = rows.clone()
    file.update(ids[1:], torch.ones(2, 4))
    assert torch.equal(rows, before) and torch.equal(rows[0], rows[1])
    assert not torch.equal(file.read(ids), before)
    file.close()


def test_rows_that_are_not_used_take_no_space(tmp_path):
    spec = spec_of(rows=10**7, width=16)
    path = tmp_path / "a.table"
    file = TableFile(path, spec)
    ids = torch.tensor([0, 5 * 10**6, 10**7 - 1])
    assert np.array_equal(file.read(ids).numpy(), initial_rows(ids.numpy(), 16, spec.seed, spec.std))
    file.update(ids, torch.ones(3, 16))
    assert [i for rows, _ in file.changed() for i in rows.ids.tolist()] == ids.tolist()
    file.close()
    assert path.stat().st_size > 1.3e9
    assert path.stat().st_blocks * 512 < 500_000


def test_digests_add_up(tmp_path):
    spec = spec_of(optimizer=RowAdam(lr=0.1))
    whole = TableFile(tmp_path / "whole.table", spec)
    parts = [TableFile(tmp_path / f"{part}.table", spec) for part in range(3)]
    assert whole.digest() == 0
    random = np.random.default_rng(0)
    for step in range(4):
        ids, grads = some_rows(random, spec.rows, spec.width)
        whole.mark(step)  # where an epoch begins is not part of it
        whole.update(ids, grads)
        for part, file in enumerate(parts):
            mine = ids % 3 == part
            file.update(ids[mine], grads[mine])
        assert whole.digest() == sum(file.digest() for file in parts) % 2**64
    before = whole.digest()
    whole.update(torch.tensor([7]), torch.ones(1, 4))
    assert whole.digest() != before
    for file in [whole, *parts]:
        file.close()


OTHERS = {
    "rows": {"rows": 51},
    "width": {"width": 8},
    "optimizer": {"optimizer": RowSGD(lr=0.1)},
    "initial_state": {"optimizer": RowAdagrad(lr=0.1, initial=0.5)},
    "seed": {"seed": 6},
    "std": {"std": 0.2},
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_tables_file_is_refused(tmp_path, name):
    path = tmp_path / "a.table"
    file = TableFile(path, spec_of())
    file.update(torch.tensor([1]), torch.ones(1, 4))
    file.close()
    before, held = path.read_bytes(), sorted(tmp_path.rglob("*"))
    with pytest.raises(TableError, match=rf"a\.table holds a table with .*{name}=.*; this one has .*{name}="):
        TableFile(path, spec_of(**OTHERS[name]))
    assert path.read_bytes() == before and sorted(tmp_path.rglob("*")) == held
    TableFile(path, spec_of(optimizer=RowAdagrad(lr=0.9))).close()  # a learning rate may change


def test_any_other_file_is_refused(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("not a table")
    with pytest.raises(TableError, match=r"notes\.txt is not the file of a table"):
        TableFile(path, spec_of())
    assert path.read_text() == "not a table"


def test_one_writer_is_one_process(tmp_path):
    path = tmp_path / "a.table"
    file, other = TableFile(path, spec_of(), writer=0), TableFile(path, spec_of(), writer=1)
    with pytest.raises(TableError, match="is open as writer 1 in another process"):
        TableFile(path, spec_of(), writer=1)
    with pytest.raises(TableError, match="is open in another process"):
        roll_back(path, 0)
    with pytest.raises(UsageError, match="at most 64 writers"):
        TableFile(path, spec_of(), writer=64)
    file.close()
    other.close()


def test_created_by_many_at_once(tmp_path):
    path, files, errors = tmp_path / "deep" / "a.table", [], []

    def open_it(writer):
        try:
            files.append(TableFile(path, spec_of(), writer=writer))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=open_it, args=(writer,)) for writer in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert not errors and len(files) == 8
    for writer, file in enumerate(files):
        file.update(torch.tensor([writer]), torch.ones(1, 4))
    assert len({content(file) for file in files}) == 1
    for file in files:
        file.close()
    assert sorted(p.name for p in path.parent.iterdir()) == ["a.table", "a.table.undo"]


def reboot(path, writer: int) -> None:
    """As if the machine had gone down with this writer's changes not synced."""
    descriptor = os.open(path, os.O_RDWR)
    slot = Slot(descriptor, writer)
    slot.boot = b"an earlier boot."
    slot._write()
    os.close(descriptor)


def test_a_machine_that_went_down_before_a_sync(tmp_path):
    path = tmp_path / "a.table"
    file = TableFile(path, spec_of())
    file.mark(0)
    file.update(torch.tensor([1]), torch.ones(1, 4))
    file.close()
    reboot(path, 2)
    for use in (lambda: TableFile(path, spec_of()), lambda: roll_back(path, 0)):
        with pytest.raises(
            TableError, match=r"a\.table was changed by writer 2 and not synced before the machine was rest"
        ):
            use()


def boot_of(path, writer: int = 0) -> bytes:
    descriptor = os.open(path, os.O_RDWR)
    try:
        return Slot(descriptor, writer).boot
    finally:
        os.close(descriptor)


def test_the_header_says_whether_all_is_synced(tmp_path):
    path = tmp_path / "a.table"
    file = TableFile(path, spec_of(), writer=3)
    assert boot_of(path, 3) == bytes(16)
    for end in (file.sync, file.close):
        file.update(torch.tensor([1]), torch.ones(1, 4))
        assert boot_of(path, 3) not in (bytes(16), b"") and boot_of(path, 2) == bytes(16)
        end()
        assert boot_of(path, 3) == bytes(16)


def test_specs_as_plain_data():
    for optimizer in (RowSGD(lr=0.1), RowAdam(lr=0.1)):
        spec = spec_of(optimizer=optimizer)
        assert TableSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize("wrong", [{"rows": 0}, {"width": 1.5}, {"seed": -1}, {"std": float("inf")}])
def test_wrong_specs_are_refused(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        spec_of(**wrong)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 300 KB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", tmp_path], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount here: {mounted.stderr.decode().strip()}")
    yield tmp_path
    subprocess.run(["umount", "-l", tmp_path], check=True)


@pytest.mark.parametrize("journal", [False, True])
def test_a_full_disk_changes_nothing(small_disk, journal):
    """Without a journal rows find no place; with one, its copies of old rows do not either."""
    spec = spec_of(rows=10_000, width=31, optimizer=RowSGD(lr=0.1))  # 32 rows to a page
    path = small_disk / "a.table"
    file, table = TableFile(path, spec), MemoryTable(spec)
    random = np.random.default_rng(0)
    errors, kept = 0, {}
    for step in range(60):
        if journal:
            try:
                file.mark(step)
                kept[step] = table.values.tobytes()
            except TableError:
                errors += 1
        first = int(random.integers(0, 9000)) if not journal else 100 * (step % 5)
        ids, grads = torch.arange(first, first + 200), torch.randn(200, 31)
        try:
            file.update(ids, grads)
            table.update(ids, grads)
        except TableError as error:
            errors += 1
            assert "Free some space" in str(error) and str(small_disk) in str(error)
    assert errors > 3
    same(file, table)
    assert marks(path) == ({0: list(kept)} if journal else {})
    for step in list(kept)[-1:0:-3]:
        file.close()
        roll_back(path, step)
        file = TableFile(path, spec)
        assert content(file) == kept[step]
    file.close()


def test_no_room_for_a_file(small_disk):
    (small_disk / "filler").write_bytes(bytes(300 * 1024))
    with pytest.raises(TableError, match=r"cannot write .*a\.table: No space left"):
        TableFile(small_disk / "a.table", spec_of())
    assert [p.name for p in small_disk.iterdir()] == ["filler"]


RESIDENT = """
import sys, torch
from pathlib import Path
from manyhands.tables import RowAdam, TableFile, TableSpec
spec = TableSpec(rows=600_000, width=16, optimizer=RowAdam(lr=0.1), seed=0)
def mapped():
    return int(next(line for line in open("/proc/self/status") if line.startswith("RssFile")).split()[1]) * 1024
for resident in map(int, sys.argv[2:]):
    file = TableFile(Path(sys.argv[1]), spec, resident=resident)
    before, most = mapped(), 0
    for start in range(0, spec.rows, 20_000):
        file.update(torch.arange(start, start + 20_000), torch.ones(20_000, 16))
        most = max(most, mapped())
        file.read(torch.randint(start + 1, (5_000,)))
        most = max(most, mapped())
    print(most - before)
    file.close(sync=False)
"""


def test_little_of_it_is_resident(tmp_path):
    """120 MB are read and written; 16 MB may stay mapped."""
    command = [sys.executable, "-c", RESIDENT, tmp_path / "a.table", str(16 << 20), str(1 << 40)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=DEADLINE)
    bounded, free = map(int, done.stdout.split())
    assert bounded < 40 << 20
    assert free > 110 << 20
