"""Bounded staleness and shares of work, on a simulated clock: random delays, losses and arrivals."""

import heapq
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyhands.sync.server.clocks import Clocks
from manyhands.sync.server.work import Share, Work


class Simulated:
    """Workers that compute for random times; some are lost, others come."""

    def __init__(self, workers: int, bound: int | None, parts: int, total: int, seed: int) -> None:
        self.clocks, self.work = Clocks(bound), Work(parts, total)
        self.chance = random.Random(seed)
        self.now, self.events, self.waiting, self.done, self.committed = 0.0, [], set(), [], []
        self.spread, self.alive, self.slowness = 0, set(), {}
        for worker in range(workers):
            self.arrive(worker)

    def arrive(self, worker: int) -> None:
        self.alive.add(worker)
        self.slowness[worker] = self.chance.choice([1, 1, 1, 3, 10])
        self.clocks.join(worker)
        self.waiting.add(worker)

    def leave(self, worker: int) -> None:
        self.alive.discard(worker)
        self.waiting.discard(worker)
        self.clocks.leave(worker)
        self.work.lost(worker)

    def begin_all_that_may(self) -> None:
        for worker in sorted(self.waiting):
            if self.clocks.may_begin(worker):
                share = self.work.claim(worker)
                if share is not None:
                    self.waiting.discard(worker)
                    took = self.slowness[worker] * self.chance.expovariate(1.0)
                    heapq.heappush(self.events, (self.now + took, self.chance.random(), worker, share))

    def run(self, chaos: float = 0.0) -> None:
        newcomer = 1000
        while not self.work.finished:
            self.begin_all_that_may()
            assert self.events, "all wait for each other"
            self.now, _, worker, share = heapq.heappop(self.events)
            if worker not in self.alive:
                continue
            if self.chance.random() < chaos:
                self.leave(worker)
                newcomer += 1
                self.arrive(newcomer)
                continue
            self.clocks.tick(worker)
            self.committed += self.work.done(worker)
            self.done.append(share)
            self.spread = max(self.spread, self.clocks.spread)
            self.waiting.add(worker)


gangs = st.tuples(st.integers(1, 6), st.integers(1, 5), st.integers(1, 12), st.integers(0, 10**6))


@given(gangs, st.integers(1, 4), st.sampled_from([0.0, 0.1, 0.3]))
@settings(max_examples=200)
def test_the_bound_holds_and_every_share_is_done_once(gang, bound, chaos):
    workers, parts, total, seed = gang
    simulated = Simulated(workers, bound, parts, total, seed)
    simulated.run(chaos)
    assert simulated.spread <= bound
    assert sorted(simulated.done) == [Share(step, index) for step in range(total) for index in range(parts)]
    assert simulated.committed == list(range(total))


@given(gangs)
def test_without_a_bound_nobody_waits(gang):
    workers, parts, total, seed = gang
    simulated = Simulated(workers, None, parts, total, seed)
    simulated.run()
    assert len(simulated.done) == parts * total


def test_the_bound_is_reached():
    """It is no stricter than it says: with one slow worker the others get as far as they may."""
    assert max(Simulated(3, 3, 3, 40, seed).spread or _spread(seed) for seed in range(20)) == 3


def _spread(seed: int) -> int:
    simulated = Simulated(3, 3, 3, 40, seed)
    simulated.run()
    return simulated.spread


@given(gangs, st.integers(0, 30), st.randoms(use_true_random=False))
def test_a_snapshot_goes_on_with_what_is_open(gang, before, chance):
    workers, parts, total, _ = gang
    work, done = Work(parts, total), []
    held = {}
    for _ in range(before):
        worker = chance.randrange(workers)
        if worker in held:
            work.done(worker)
            done.append(held.pop(worker))
        elif (share := work.claim(worker)) is not None:
            held[worker] = share
    again = Work(parts + 1, total, work.capture())
    assert again.committed == work.committed
    for worker, share in held.items():
        if chance.random() < 0.5:
            assert again.hold(worker, share)
            again.done(worker)
            done.append(share)
    while (share := again.claim(99)) is not None:
        again.done(99)
        done.append(share)
    assert again.finished
    assert sorted(done) == [Share(step, index) for step in range(total) for index in range(parts)]


def test_nothing_of_later_steps_is_handed_out_before_a_pause():
    work = Work(2, 10)
    first = work.claim(0, until=1), work.claim(1, until=1)
    assert first == (Share(0, 0), Share(0, 1))
    assert work.claim(2, until=1) is None
    work.lost(1)
    assert work.claim(2, until=1) == Share(0, 1)
    assert work.done(2) == []
    assert work.done(0) == [0]


@pytest.mark.parametrize("bound", [1, 2])
def test_a_newcomer_starts_where_the_slowest_is(bound):
    clocks = Clocks(bound)
    clocks.join(0), clocks.join(1)
    for _ in range(5):
        clocks.tick(0), clocks.tick(1)
    clocks.join(2)
    assert clocks.spread == 0
    assert clocks.may_begin(2)
