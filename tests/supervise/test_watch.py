"""Who is found hung before any step was reported: the board knows more than the reports."""

import time
from dataclasses import replace

from manyhands.gang import Member, Phase
from manyhands.plan import Plan
from manyhands.shm import Board
from manyhands.supervise.options import Care
from manyhands.supervise.watch import Watch
from manyhands.timeline import PHASES


class NoEngine:
    def __init__(self):
        self.asked = []
        self.read_at = {}

    def stacks(self, worker):
        self.asked.append(worker)

    def clogged(self, worker):
        return self.read_at.get(worker, 0)


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


def watching(monkeypatch):
    """A watch that has learned what a step takes, of two members that stand still in their forward pass; its clock."""
    clock = [10**12]
    monkeypatch.setattr("manyhands.supervise.watch.time.monotonic_ns", lambda: clock[0])
    monkeypatch.setattr("manyhands.shm.board.monotonic_ns", lambda: clock[0])
    notes, board = [], Board()
    watch = Watch(NoEngine(), board, Care(patience=10.0, startup_patience=600.0), notes.append)
    watch.patience.learn(0.1)
    members = {
        w: Member(worker=w, device=w, plan=Plan(workers=2), phase=Phase.RUNNING, rank=w, first=3) for w in (0, 1)
    }
    for worker in members:
        board.write(worker, 4, 0, PHASES.index("forward"))
    return watch, members, clock, notes


def test_a_machine_that_was_stopped_is_no_hang(monkeypatch):
    watch, members, clock, notes = watching(monkeypatch)
    wait = watch.next_check(members)
    clock[0] += int((wait + 25.0) * 1e9)  # as of a container that was frozen
    watch.look(members)
    assert not notes
    clock[0] += int(watch.next_check(members) * 1e9) + 10**9
    watch.look(members)
    assert len(notes) == 2, "but whoever goes on standing still is hung"
    assert "in step 5 (forward)" in notes[0]


def test_waiting_for_output_to_be_read_is_no_hang(monkeypatch):
    watch, members, clock, notes = watching(monkeypatch)
    for _ in range(10):
        clock[0] += 8 * 10**9
        watch._engine.read_at = dict.fromkeys(members, clock[0])
        watch.next_check(members)
        watch.look(members)
    assert not notes
    for _ in range(3):
        clock[0] += 8 * 10**9
        watch.next_check(members)
        watch.look(members)
    assert len(notes) == 2, "but who hangs after it has printed hangs"


def test_a_worker_that_took_up_a_state_has_done_no_step_yet(monkeypatch):
    watch, members, clock, notes = watching(monkeypatch)
    newcomers = {worker: replace(member, first=4) for worker, member in members.items()}
    clock[0] += int(watch.next_check(newcomers) * 1e9) + 10**9
    watch.look(newcomers)
    assert not notes
    moved = {worker: replace(member, moved=True) for worker, member in newcomers.items()}
    watch.look(moved)
    assert len(notes) == 2


def test_what_we_ended_is_told_with_its_reason(monkeypatch):
    watch, members, clock, notes = watching(monkeypatch)
    clock[0] += int(watch.next_check(members) * 1e9) + 10**9
    watch.look(members)
    assert "stood still for 1" in watch.forget(0) and "(forward)" in watch.reasons[1]
    assert watch.forget(7) == ""
