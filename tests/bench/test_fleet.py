"""Fleets: ranks that do what they are told, and are missed when they are gone."""

import sys

import pytest

from manyhands.bench import Fleet, Timing, alternate, fleet, local
from manyhands.errors import UserError

RANK = """
import os, sys, time
from manyhands.bench.serve import serve
def die(): os._exit(3)
def bad(): raise ValueError("no")
rank = int(os.environ["RANK"])
handlers = dict(check=lambda operation, size: size < 100, time=lambda **_: 0.01 * (rank + 1), die=die, bad=bad)
serve(sys.argv[-1], rank, {"pid": os.getpid()}, handlers)
"""
COMMAND = (sys.executable, "-c", RANK)


def test_times_are_those_of_the_slowest_rank():
    with Fleet("a", 3, local(3), COMMAND) as a, Fleet("b", 1, local(1), COMMAND) as b:
        timings = alternate({"a": a, "b": b}, "all_reduce", 50, 4)
    assert timings["a"].seconds == [pytest.approx(0.03)] * 4
    assert timings["b"].over(timings["a"]) == pytest.approx(3)


def test_ratios_are_taken_within_rounds():
    assert Timing([1.0, 10.0, 2.0]).over(Timing([2.0, 20.0, 4.0])) == 2


def test_wrong_results_are_not_timed():
    with Fleet("a", 2, local(2), COMMAND) as fleet, pytest.raises(UserError, match="a: all_reduce of 100 bytes"):
        alternate({"a": fleet}, "all_reduce", 100, 1)


@pytest.mark.parametrize(("what", "message"), [("die", "a failed in die|a stopped in die"), ("bad", "ValueError: no")])
def test_a_rank_that_fails_is_told(what, message):
    with Fleet("a", 2, local(2), COMMAND) as fleet, pytest.raises(UserError, match=message):
        fleet.ask(what)


def test_ranks_that_never_come_up_are_told():
    """At once: the deadline is a day."""
    with pytest.raises(UserError, match=r"did not all come up.*(?s:.)*told you so"):
        Fleet("a", 2, local(2), (sys.executable, "-c", "raise SystemExit('told you so')"), deadline=86_400.0)


def test_ranks_leave_when_they_are_let_go(monkeypatch):
    monkeypatch.setattr(fleet, "_LEAVE", 120.0)
    with Fleet("a", 2, local(2), COMMAND) as ranks:
        processes = ranks._processes
    assert [process.returncode for process in processes] == [0, 0]
