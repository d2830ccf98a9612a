"""Going back: a table with its journals against a table in memory that keeps a copy for every mark."""

import os
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from table_models import MemoryTable, content, same, some_rows, spec_of

from manyhands.errors import UsageError
from manyhands.tables import RowAdagrad, RowAdam, RowSGD, TableError, TableFile, marks, roll_back
from manyhands.tables.journal import epochs, folder_of


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """Nobody cuts the power here."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: None)


class Servers:
    """Writers of one file: each changes the rows whose id modulo their number is its own."""

    def __init__(self, path, spec, count: int) -> None:
        self.files = [TableFile(path, spec, writer=writer) for writer in range(count)]

    def update(self, ids, grads) -> None:
        for writer, file in enumerate(self.files):
            mine = ids % len(self.files) == writer
            file.update(ids[mine], grads[mine])

    def each(self, method: str, *arguments) -> None:
        for file in self.files:
            getattr(file, method)(*arguments)


@settings(max_examples=60)
@given(st.data(), st.sampled_from([RowSGD(lr=0.1), RowAdagrad(lr=0.1), RowAdam(lr=0.1)]))
def test_any_sequence(tmp_path_factory, data, optimizer):
    """Updates, marks, going back, forgetting, closing and opening with another number of writers."""
    path = tmp_path_factory.mktemp("table") / "a.table"
    spec = spec_of(rows=40, optimizer=optimizer)
    table, servers = MemoryTable(spec), Servers(path, spec, 2)
    random = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    step = 0
    actions = st.sampled_from(["update", "update", "update", "mark", "mark", "back", "forget", "open"])
    for action in ["mark", *data.draw(st.lists(actions, max_size=25))]:
        if action == "update":
            ids, grads = some_rows(random, 40, 4)
            servers.update(ids, grads)
            table.update(ids, grads)
        elif action == "mark":
            step += data.draw(st.integers(1, 3))
            servers.each("mark", step)
            table.mark(step)
        elif action == "forget":
            before = data.draw(st.integers(0, step))
            servers.each("forget", before)
            table.marks = {s: kept for s, kept in table.marks.items() if s >= before or s == step}
        else:
            servers.each("close")
            if action == "back":
                step = data.draw(st.sampled_from(sorted(table.marks)))
                roll_back(path, step)
                table.roll_back(step)
            servers = Servers(path, spec, data.draw(st.integers(1, 3)))
            step += action == "open"
            servers.each("mark", step)  # who owns a row may change at a mark
            table.mark(step)
        same(servers.files[0], table)
    servers.each("close")
    assert set(table.marks) <= {s for steps in marks(path).values() for s in steps}


def marked(path, updates: int = 3, spec=None):
    """A file with marks 0, 1, 2... and an update after each; what it held at each mark."""
    spec = spec or spec_of()
    file, held = TableFile(path, spec), []
    random = np.random.default_rng(1)
    for step in range(updates):
        file.mark(step)
        held.append(content(file))
        file.update(*some_rows(random, spec.rows, spec.width))
    return file, held


def test_back_to_each_mark_and_forward_again(tmp_path):
    path = tmp_path / "a.table"
    file, held = marked(path, 5)
    file.close()
    assert marks(path) == {0: [0, 1, 2, 3, 4]}
    for step in (4, 2, 2, 0):
        roll_back(path, step)
        file = TableFile(path, spec_of())
        assert content(file) == held[step]
        assert marks(path) == {0: list(range(step + 1))}
        file.mark(step)  # it is that mark
        file.update(torch.arange(50), torch.ones(50, 4))
        file.close()
    assert roll_back(path, 0) == 50
    file = TableFile(path, spec_of())
    assert content(file) == held[0] and not any(len(rows.ids) for rows, _ in file.changed())
    file.close()


def test_a_row_is_kept_once_an_epoch(tmp_path):
    file = TableFile(tmp_path / "a.table", spec_of(rows=1000))
    file.mark(0)
    ids = torch.arange(100)
    journal = folder_of(file.path) / "0-00000000.undo"
    file.update(ids, torch.ones(100, 4))
    size = journal.stat().st_size
    for _ in range(5):
        file.update(ids, torch.ones(100, 4))
    assert journal.stat().st_size - size < 200  # a few empty blocks at most
    file.close()


def test_forgotten_steps_are_gone_from_the_disk(tmp_path):
    path = tmp_path / "a.table"
    file, held = marked(path, 6)
    file.forget(3)
    assert marks(path) == {0: [3, 4, 5]}
    file.forget(100)  # the epoch that goes on stays
    assert marks(path) == {0: [5]}
    file.close()
    for step in (2, 4, 6):
        with pytest.raises(
            TableError, match=rf"cannot go back to step {step}: the steps that it can go back to are: 5\."
        ):
            roll_back(path, step)
    roll_back(path, 5)
    file = TableFile(path, spec_of())
    assert content(file) == held[5]
    file.close()


def test_what_one_writer_forgot_the_others_cannot_go_back_to(tmp_path):
    path = tmp_path / "a.table"
    servers = Servers(path, spec_of(), 2)
    for step in (1, 2):
        servers.each("mark", step)
        servers.update(torch.arange(50), torch.ones(50, 4))
    servers.files[1].forget(2)
    servers.each("close")
    assert marks(path) == {0: [1, 2], 1: [2]}
    with pytest.raises(TableError, match=r"are: 2\."):
        roll_back(path, 1)
    assert roll_back(path, 2) == 50


def test_marks_go_forward(tmp_path):
    file, _ = marked(tmp_path / "a.table", 3)
    for step in (2, 1, -1):
        with pytest.raises(UsageError, match=f"cannot be marked at step {step}: its last mark is at step 2"):
            file.mark(step)
    file.mark(7)
    file.mark(7)  # nothing has changed since
    file.close()


def test_without_a_mark_there_is_no_way_back(tmp_path):
    path = tmp_path / "a.table"
    assert marks(path) == {}
    file = TableFile(path, spec_of())
    file.update(torch.arange(9), torch.ones(9, 4))
    assert not epochs(folder_of(path), spec_of().words)
    before = content(file)
    file.mark(3)
    file.update(torch.arange(50), torch.ones(50, 4))
    file.close()
    with pytest.raises(TableError, match=r"cannot go back to step 0: .* are: 3\."):
        roll_back(path, 0)
    roll_back(path, 3)
    file = TableFile(path, spec_of())
    assert content(file) == before
    file.close()


@pytest.mark.parametrize("after", ["roll back", "open"])
def test_every_cut_of_a_journal(tmp_path, after):
    """A kill cuts the last append anywhere; the rows of that block had not been changed then."""
    path = tmp_path / "a.table"
    spec = spec_of(rows=6, width=1)
    file = TableFile(path, spec)
    file.mark(0)
    file.update(torch.tensor([0, 1]), torch.ones(2, 1))
    journal = folder_of(path) / "0-00000000.undo"
    first = journal.stat().st_size
    kept, expected = path.read_bytes(), content(file)
    file.update(torch.tensor([2, 3, 4]), torch.ones(3, 1))
    whole = journal.read_bytes()
    file.close()
    start = TableFile(tmp_path / "new.table", spec)
    for cut in range(first, len(whole)):
        path.write_bytes(kept)
        journal.write_bytes(whole[:cut])
        if after == "open":
            file = TableFile(path, spec)
            assert journal.stat().st_size == first and content(file) == expected
            file.update(torch.tensor([4, 5]), torch.ones(2, 1))
            file.close()
        assert roll_back(path, 0) == (4 if after == "open" else 2)
        file = TableFile(path, spec)
        assert content(file) == content(start)
        file.close()
    start.close()


def test_a_damaged_block_ends_the_journal(tmp_path):
    path = tmp_path / "a.table"
    file, _ = marked(path, 1)
    file.close()
    journal = folder_of(path) / "0-00000000.undo"
    raw = bytearray(journal.read_bytes())
    raw[-1] ^= 1
    journal.write_bytes(raw)
    assert roll_back(path, 0) == 0


def test_a_mark_that_was_cut_off_is_none(tmp_path):
    path = tmp_path / "a.table"
    file, held = marked(path, 2)
    now = content(file)
    file.close()
    for size in (0, 5, 23):
        (folder_of(path) / "0-00000002.undo").write_bytes((folder_of(path) / "0-00000001.undo").read_bytes()[:size])
        assert marks(path) == {0: [0, 1]}
        file = TableFile(path, spec_of())
        assert content(file) == now
        file.mark(2)
        assert marks(path) == {0: [0, 1, 2]}
        file.close()
    roll_back(path, 1)
    file = TableFile(path, spec_of())
    assert content(file) == held[1]
    file.close()


def test_going_back_may_be_interrupted(tmp_path, monkeypatch):
    """At every file that it takes away or empties."""
    path = tmp_path / "a.table"
    servers = Servers(path, spec_of(), 2)
    random, held = np.random.default_rng(1), []
    for step in range(4):
        servers.each("mark", step)
        held.append(content(servers.files[0]))
        servers.update(*some_rows(random, 50, 4, most=40))
    servers.each("close")
    kept = shutil.copytree(tmp_path, tmp_path.with_name("kept"))

    class Killed(BaseException):
        pass

    import manyhands.tables.rollback as module

    for when in range(9):
        shutil.rmtree(tmp_path)
        shutil.copytree(kept, tmp_path)
        count = [0]

        def empty(epoch, real=module.empty, count=count, when=when):
            count[0] += 1
            if count[0] > when:
                raise Killed
            real(epoch)

        def unlink(self, real=os.unlink, count=count, when=when):
            count[0] += 1
            if count[0] > when:
                raise Killed
            real(self)

        with monkeypatch.context() as patch:
            patch.setattr(module, "empty", empty)
            patch.setattr("pathlib.Path.unlink", unlink)
            try:
                roll_back(path, 1)
            except Killed:
                pass
        roll_back(path, 1)
        file = TableFile(path, spec_of())
        assert content(file) == held[1]
        file.close()
