"""Who is found hung before any step was reported: the board knows more than the reports."""

import time

from manyhands.gang import Member, Phase
from manyhands.plan import Plan
from manyhands.shm import Board
from manyhands.supervise.options import Care
from manyhands.supervise.watch import Watch
from manyhands.timeline import PHASES


class NoEngine:
    def __init__(self):
        self.asked = []

    def stacks(self, worker):
        self.asked.append(worker)


def test_a_worker_that_hangs_before_its_first_report_is_found_by_its_steps_on_the_board(monkeypatch):
    notes, engine, board = [], NoEngine(), Board()
    watch = Watch(engine, board, Care(patience=1.0, startup_patience=600.0), notes.append)
    now = time.monotonic_ns()
    began = now - 20 * 10**9
    member = Member(worker=3, pid=1234, device=0, plan=Plan(), since=began, phase=Phase.RUNNING, rank=0)
    board.write(3, 0, 0, PHASES.index("forward"))
    watch.look({3: member})
    assert not notes  # still in its first step: that may compile
    assert watch.next_check({3: member}) <= 1.0
    monkeypatch.setattr("manyhands.shm.board.monotonic_ns", lambda: began + 10**8)
    board.write(3, 2, 0, PHASES.index("forward"))  # two steps were done 0.1 s after the start, then nothing more
    watch.look({3: member})
    assert len(notes) == 1 and "stood still" in notes[0]
    assert engine.asked == [3]
