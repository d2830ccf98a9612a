"""Whereabouts written in one process and read in another."""

import os
import time

from children import child, release
from hypothesis import given
from hypothesis import strategies as st

from manyhands.shm import Board


def test_the_supervisor_reads_what_a_worker_wrote():
    board = Board()
    before = time.monotonic_ns()

    def worker():
        Board(board.descriptor).write(3, 17, 5, 2)

    with child(worker) as pid:
        assert os.waitpid(pid, 0)[1] == 0
    where = board.read(3)
    assert (where.step, where.micro_batch, where.phase) == (17, 5, 2)
    assert before <= where.since <= time.monotonic_ns()
    release(board)


def test_a_line_is_never_read_empty_while_it_is_written():
    """A worker that is stopped in the middle of writing must not look as if it had stood still since 0."""
    board = Board()
    board.write(3, 0, 0, 0)

    def worker():
        mine = Board(board.descriptor)
        for step in range(300_000):
            mine.write(3, step, 0, 1)

    with child(worker) as pid:
        empty = 0
        while os.waitpid(pid, os.WNOHANG) == (0, 0):
            empty += sum(board.read(3).since == 0 for _ in range(1000))
        assert empty == 0
    release(board)


@given(st.lists(st.tuples(st.integers(0, 1023), st.integers(-1, 2**40), st.integers(-1, 4096), st.integers(0, 7))))
def test_lines_do_not_touch_each_other(writes):
    board = Board()
    last = {}
    for line, step, micro_batch, phase in writes:
        board.write(line, step, micro_batch, phase)
        last[line] = (step, micro_batch, phase)
    for line, written in last.items():
        assert board.read(line)[:3] == written
    untouched = next(line for line in range(1024) if line not in last)
    assert board.read(untouched) == (0, 0, 0, 0)
    release(board)


def test_line_numbers_wrap():
    board = Board()
    board.write(Board.LINES + 4, 1, 2, 3)
    assert board.read(4)[:3] == board.read(2 * Board.LINES + 4)[:3] == (1, 2, 3)
    release(board)
