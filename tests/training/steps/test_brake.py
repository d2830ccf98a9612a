"""Slower on purpose: what is stretched, on a worker with a whole model and on one with a part. Nobody asks a clock."""

import split_checks

from manyhands.training.steps import brake
from manyhands.training.steps.brake import Brake


class Clock:
    """A clock that only moves when told to."""

    def __init__(self):
        self.now, self.slept = 0.0, []

    def perf_counter(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(seconds)


def test_each_kind_is_stretched_by_its_own_time(monkeypatch):
    monkeypatch.setattr(brake, "time", clock := Clock())
    braking = Brake(3.0)
    for kind, seconds in [("forward", 1.0), ("backward", 2.0), ("forward", 4.0), ("backward", 1.0), ("forward", 1.0)]:
        braking.hold(kind)
        clock.now += seconds
        braking.let_go()
        braking.let_go()  # nothing is held any more
    assert clock.slept == [0.0, 0.0, 2.0, 4.0, 8.0]


def test_one_that_is_not_slow_never_sleeps(monkeypatch):
    monkeypatch.setattr(brake, "time", clock := Clock())
    braking = Brake(1.0)
    braking.hold()
    braking.let_go()
    assert clock.slept == []


def test_a_worker_of_a_split_run_is_slowed_and_trains_the_same(gangs):
    """In two steps: a forward and a backward action for each of a worker's micro-batches."""
    for layout, actions in (("pp=2", 32), ("tp=2", 32), ("dp=2,shard=1", 16)):
        (quick, _, digest), (slow, seconds, _) = gangs.gang(2).run(split_checks.slowed, "chain", layout, "1:3")
        assert (quick, slow) == (0, actions) and seconds > 0, layout
        (plain, _, without), _ = gangs.gang(2).run(split_checks.slowed, "chain", layout, "")
        assert plain == 0 and without == digest, layout
