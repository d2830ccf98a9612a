"""When checkpoints are due, and that writing one neither stops the loop nor loses the slot."""

import errno
import os
import time

import pytest

from manyhands.engine import Loop
from manyhands.errors import UsageError
from manyhands.run import RunDirectory, newest_checkpoint
from manyhands.shm import Slots
from manyhands.supervise import Care, checkpoints
from manyhands.supervise.checkpoints import Checkpoints

DEADLINE = 120.0


class Desk:
    """A `Checkpoints` with all that it needs."""

    def __init__(self, path, **care) -> None:
        self.loop, self.slots = Loop(), Slots()
        self.notes, self.written = [], []
        self.directory = RunDirectory(path)
        self.checkpoints = Checkpoints(
            self.directory, Care(**care), self.slots, self.loop, self.notes.append, self.written.append
        )

    def save(self, step: int) -> int:
        """A worker's state in a slot."""
        slot, target = self.slots.begin(100)
        target[:] = bytes([step % 256]) * 100
        self.slots.commit(slot, step, 100)
        return slot

    def close(self) -> None:
        for descriptor in self.slots.descriptors:
            os.close(descriptor)
        self.loop.close()

    def finish(self) -> None:
        """Run the loop until the write has ended."""
        end = time.monotonic() + DEADLINE
        while self.checkpoints.writing:
            assert time.monotonic() < end, "the write did not end"
            self.loop.run_once(1.0)


@pytest.fixture
def make_desk(tmp_path):
    made = []

    def make(**care) -> Desk:
        made.append(Desk(tmp_path, **care))
        return made[-1]

    yield make
    for desk in made:
        desk.finish()
        desk.close()


@pytest.fixture
def clock(monkeypatch):
    """Seconds that a test sets."""

    class Clock:
        now = 1000.0

        def monotonic(self):
            return self.now

    made = Clock()
    monkeypatch.setattr(checkpoints, "time", made)
    return made


def test_every_so_many_steps(make_desk):
    desk = make_desk(checkpoint_every=10)
    due = desk.checkpoints.due
    assert [step for step in range(35) if due(step)] == list(range(10, 35))
    desk.checkpoints.durable = 12  # reported a little late: the next is due at 20 all the same
    assert [step for step in range(35) if due(step)] == list(range(20, 35))


def test_every_so_many_seconds(make_desk, clock):
    desk = make_desk(checkpoint_seconds=30.0)
    clock.now += 29
    assert not desk.checkpoints.due(5)
    clock.now += 2
    assert desk.checkpoints.due(5)
    assert not desk.checkpoints.due(0)  # there is nothing to keep
    desk.checkpoints.write(desk.save(5), 5)
    desk.finish()
    assert not desk.checkpoints.due(6)
    clock.now += 31
    assert desk.checkpoints.due(6) and not desk.checkpoints.due(5)


def test_a_slow_disk_stretches_the_interval(make_desk, clock, monkeypatch):
    def slow(*args):
        clock.now += 5.0

    desk = make_desk(checkpoint_seconds=30.0)
    monkeypatch.setattr(checkpoints, "write_checkpoint", slow)
    desk.checkpoints.write(desk.save(1), 1)
    desk.finish()
    clock.now += 450
    assert not desk.checkpoints.due(2)  # 5 s are 1 % of 500 s
    clock.now += 50
    assert desk.checkpoints.due(2)


def test_a_write_ends_in_the_loop_and_gives_the_slot_back(make_desk):
    desk = make_desk(checkpoint_every=1, keep_checkpoints=2)
    for step in (1, 2, 3):
        slot = desk.save(step)
        desk.checkpoints.write(slot, step)
        assert desk.checkpoints.writing and not desk.checkpoints.due(step + 1)
        desk.finish()
        assert desk.written[-1] == slot
        assert desk.checkpoints.durable == step and not desk.checkpoints.failed
        newest = newest_checkpoint(desk.directory.checkpoints, desk.notes.append)
        assert newest.step == step and newest.state.read_bytes() == bytes([step]) * 100
    assert len(list(desk.directory.checkpoints.iterdir())) == 2
    assert desk.notes == []


def full_disk(*args):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_said_and_training_goes_on(make_desk, monkeypatch):
    desk = make_desk(checkpoint_every=10)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "write_checkpoint", full_disk)
        slot = desk.save(10)
        desk.checkpoints.write(slot, 10)
        desk.finish()
    assert (desk.checkpoints.failed, desk.checkpoints.durable, desk.written) == (True, 0, [slot])
    for word in ("step 10", str(desk.directory.checkpoints), "No space left on device", "Training goes on"):
        assert word in desk.notes[0]
    desk.checkpoints.write(desk.save(20), 20)
    desk.finish()
    assert (desk.checkpoints.failed, desk.checkpoints.durable) == (False, 20)


def test_after_a_failure_the_next_one_is_tried_later(make_desk, monkeypatch):
    """As the note says: not at once and at every step, each time with another note."""
    desk = make_desk(checkpoint_every=10)
    monkeypatch.setattr(checkpoints, "write_checkpoint", full_disk)
    desk.checkpoints.write(desk.save(10), 10)
    desk.finish()
    assert [step for step in range(10, 25) if desk.checkpoints.due(step)] == [20, 21, 22, 23, 24]


@pytest.mark.parametrize(
    "wrong",
    [
        {"checkpoint_every": 0},
        {"checkpoint_every": -5},
        {"keep_checkpoints": 0},
        {"attempts": 0},
        {"snapshot_share": 0.0},
        {"snapshot_share": 1.5},
    ],
)
def test_settings_that_make_no_sense(wrong):
    (name,) = wrong
    with pytest.raises(UsageError, match=f"--{name.replace('_', '-')}"):
        Care(**wrong)
