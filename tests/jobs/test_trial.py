"""Trials of two jobs on one slot, with jobs that only pretend."""

import asyncio
import time

import pytest

from manyhands.errors import UserError
from manyhands.jobs.controller.sharing import trial as trials
from manyhands.jobs.controller.sharing.trial import Mark, trial


class Slot:
    """Two jobs; `speeds` by both ways of sharing, steps per second."""

    def __init__(self, alone, together, refuses=()) -> None:
        self.alone, self.together, self.refuses = alone, together, refuses
        self.ways = [None, None]
        self.told = []
        self.steps, self.since = [0.0, 0.0], time.monotonic()

    def speeds(self):
        if "alone" in self.ways:
            return [rate if way == "alone" else 0.0 for rate, way in zip(self.alone, self.ways, strict=True)]
        if self.ways[0] != self.ways[1] or self.ways[0] is None:
            return [1.0, 1.0]
        return [rate * part for rate, part in zip(self.alone, self.together[self.ways[0]], strict=True)]

    def advance(self):
        now = time.monotonic()
        self.steps = [done + rate * (now - self.since) for done, rate in zip(self.steps, self.speeds(), strict=True)]
        self.since = now


class Pretender:
    def __init__(self, slot: Slot, which: int) -> None:
        self.slot, self.which = slot, which

    def mark(self):
        self.slot.advance()
        return Mark(self.slot.steps[self.which], self.slot.since)

    async def share(self, way):
        if way in self.slot.refuses:
            raise UserError("not this one")
        self.slot.advance()
        self.slot.ways[self.which] = way
        self.slot.told.append((self.which, way))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(trials, "SETTLE_SECONDS", 0.01)
    monkeypatch.setattr(trials, "LONGEST_SECONDS", 1.0)
    monkeypatch.setattr(trials, "_LOOK_SECONDS", 0.02)


def run(slot, alone=(None, None)):
    return asyncio.run(trial(Pretender(slot, 0), Pretender(slot, 1), alone, seconds=0.2))


GOOD = {"together": (0.6, 0.5), "interleave": (0.9, 0.8), "ticktock": (0.6, 0.6)}


def test_the_best_way_is_found_and_kept():
    slot = Slot((200.0, 100.0), GOOD)
    found = run(slot)
    assert found.way == "interleave" and slot.ways == ["interleave", "interleave"]
    assert found.alone == pytest.approx((200.0, 100.0), rel=0.02)
    assert found.speeds == pytest.approx((0.9, 0.8), rel=0.02)
    assert set(found.all) == {"together", "interleave", "ticktock"}


def test_what_is_known_alone_is_not_measured_again():
    slot = Slot((200.0, 100.0), GOOD)
    run(slot, (200.0, 100.0))
    assert "alone" not in [way for _, way in slot.told]


def test_a_gang_that_cannot_take_turns_goes_together():
    slot = Slot((200.0, 100.0), GOOD, refuses=("interleave", "ticktock"))
    found = run(slot, (200.0, 100.0))
    assert found.way == "together" and found.speeds == pytest.approx((0.6, 0.5), rel=0.02)


def test_turns_have_to_be_better_than_none():
    found = run(Slot((200.0, 100.0), dict.fromkeys(GOOD, (0.6, 0.6))), (200.0, 100.0))
    assert found.way == "together"


def test_one_that_stands_still_is_not_judged():
    with pytest.raises(UserError, match="gets nothing done"):
        run(Slot((0.0, 100.0), GOOD))
