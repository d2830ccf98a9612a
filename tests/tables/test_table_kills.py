"""Writers killed at any moment: going back to the last mark is the same as never having gone on."""

import os
import random
import signal
import time

import numpy as np
import pytest
import torch
from children import child
from table_models import MemoryTable, content, same, some_rows, spec_of

from manyhands.tables import RowAdam, TableFile, marks, roll_back

ROWS, WIDTH = 3000, 16
SPEC = spec_of(rows=ROWS, width=WIDTH, optimizer=RowAdam(lr=0.05))


def updates_of(step: int, writer: int, writers: int):
    """Three updates of every step: mostly rows that many steps use."""
    chance = np.random.default_rng((step, writer))
    for _ in range(3):
        yield some_rows(chance, ROWS, WIDTH, most=400, step=writers, first=writer)


def serve(path, writer: int, writers: int, progress: int) -> None:
    """Train for ever, from the last mark on, telling of every mark that is complete."""
    file = TableFile(path, SPEC, writer=writer)
    step = marks(path).get(writer, [0])[-1]
    while True:
        file.mark(step)
        if writers == 1:  # two that do not wait for each other do not know what the other needs
            file.forget(step - 2)
        os.write(progress, step.to_bytes(4, "little"))
        for ids, grads in updates_of(step, writer, writers):
            file.update(ids, grads)
        step += 1


def replay(until: int, writers: int) -> MemoryTable:
    table = MemoryTable(SPEC)
    for step in range(until):
        for writer in range(writers):
            for ids, grads in updates_of(step, writer, writers):
                table.update(ids, grads)
    return table


@pytest.mark.parametrize("writers", [1, 2])
def test_killed_at_any_moment(tmp_path, writers):
    path, chance = tmp_path / "a.table", random.Random(writers)
    before, undone = -1, 0
    for _ in range(25):
        pipes = [os.pipe() for _ in range(writers)]
        with child(lambda: serve(path, 0, writers, pipes[0][1])) as first:  # noqa: B023
            if writers == 1:
                run_and_kill([first], pipes, chance)
            else:
                with child(lambda: serve(path, 1, writers, pipes[1][1])) as second:  # noqa: B023
                    run_and_kill([first, second], pipes, chance)
        for pipe in pipes:
            os.close(pipe[0])
        found = marks(path)
        assert len(found) == writers
        step = min(steps[-1] for steps in found.values())
        assert step >= before
        undone += roll_back(path, step)
        files = [TableFile(path, SPEC, writer=writer) for writer in range(writers)]
        same(files[0], replay(step, writers))
        for file in files:
            file.close()
        before = step
    assert before > 5 and undone > 0


def run_and_kill(pids, pipes, chance) -> None:
    """Once each writer has begun a step, kill them at a moment of no meaning."""
    for pipe in pipes:
        os.close(pipe[1])
    steps = chance.randrange(1, 4)
    for read, _ in pipes:
        for _ in range(steps):
            assert os.read(read, 4), "a writer ended by itself"
    time.sleep(chance.random() * 0.004)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for pid in pids:
        os.waitpid(pid, 0)


def test_content_helper_sees_a_difference(tmp_path):
    file = TableFile(tmp_path / "a.table", SPEC)
    before = content(file)
    file.update(torch.tensor([ROWS - 1]), torch.ones(1, WIDTH))
    assert content(file) != before
    file.close()
