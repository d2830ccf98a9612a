"""However the writer dies, a whole state is left, and a pinned one is never touched."""

import hashlib
import os
import random
import select
import signal
import time

import pytest
from children import DEADLINE, child, release
from hypothesis import given, settings
from hypothesis import strategies as st

from manyhands.shm import Slots


def content(step: int, length: int) -> bytes:
    """Bytes that only this step has."""
    block = hashlib.sha256(str(step).encode()).digest()
    return (block * (length // 32 + 1))[:length]


def save(slots: Slots, step: int, length: int) -> int:
    slot, target = slots.begin(length)
    target[:] = content(step, length)
    slots.commit(slot, step, length)
    return slot


def again(slots: Slots) -> Slots:
    """Another process's object over the same memory."""
    return Slots(tuple(os.dup(descriptor) for descriptor in slots.descriptors))


def test_new_slots_hold_nothing():
    slots = Slots()
    assert slots.newest() is None
    for slot in (0, 1):
        with pytest.raises(ValueError, match=f"slot {slot} holds no whole state"):
            slots.read(slot)
    release(slots)


@settings(max_examples=50)
@given(st.lists(st.integers(0, 20_000), min_size=1, max_size=12))
def test_the_newest_is_what_was_saved_last_and_the_other_the_one_before(lengths):
    writer = Slots()
    reader = again(writer)
    where = {}
    for step, length in enumerate(lengths, 1):
        where[step] = save(writer, step, length)
        newest = reader.newest()
        assert newest == (where[step], step)
        assert bytes(reader.read(newest.slot)) == content(step, length)
        if step > 1:
            assert where[step] != where[step - 1]
            assert bytes(reader.read(where[step - 1])) == content(step - 1, lengths[step - 2])
    release(writer, reader)


def test_a_begun_slot_is_not_whole_until_committed():
    slots = Slots()
    older = save(slots, 1, 100)
    save(slots, 2, 100)
    slot, target = slots.begin(100)
    assert slot == older
    with pytest.raises(ValueError, match="holds no whole state"):
        slots.read(slot)
    target[:] = content(3, 100)
    assert slots.newest().step == 2
    slots.commit(slot, 3, 100)
    assert slots.newest() == (slot, 3)
    release(slots)


@given(st.lists(st.sampled_from(["save", "begin", "pin", "unpin"]), max_size=30))
def test_a_pinned_slot_keeps_its_bytes(actions):
    slots = Slots()
    step, pinned = 0, None
    for action in actions:
        if action == "save":
            step += 1
            assert save(slots, step, 50) != pinned
        elif action == "begin":
            slot, target = slots.begin(50)
            target[:20] = b"half of another one "
            assert slot != pinned
        elif action == "pin" and slots.newest() and pinned is None:
            pinned = slots.pinned = slots.newest().slot
            kept = slots.newest().step
        elif action == "unpin":
            pinned = slots.pinned = None
        if pinned is not None:
            assert bytes(slots.read(pinned)) == content(kept, 50)
    if step and "begin" not in actions:
        assert slots.newest().step == step
    release(slots)


def test_a_writer_killed_at_any_moment_leaves_a_whole_state():
    chance = random.Random(0)
    length = 1 << 20
    for _ in range(20):
        slots = Slots()
        save(slots, 1, length)
        said, say = os.pipe()

        def write_for_ever(slots=slots, say=say):
            writer = again(slots)
            step = 1
            os.write(say, b".")
            while True:
                step += 1
                save(writer, step, length)

        with child(write_for_ever) as pid:
            assert select.select([said], [], [], DEADLINE)[0]
            time.sleep(chance.random() * 0.01)  # a random moment, not a wait for anything
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        os.close(said)
        os.close(say)
        newest = slots.newest()
        assert newest is not None
        assert bytes(slots.read(newest.slot)) == content(newest.step, length)
        try:
            older = bytes(slots.read(1 - newest.slot))
        except ValueError:
            older = content(newest.step - 1, length)
        assert older == content(newest.step - 1, length)
        release(slots)


def test_a_writer_killed_half_way_leaves_the_other_slot_and_a_new_writer_goes_on():
    slots = Slots()
    save(slots, 1, 100)
    save(slots, 2, 100)
    read, write = os.pipe()

    def stop_half_way():
        _, target = slots.begin(200)
        target[:100] = content(3, 100)
        os.write(write, b".")
        signal.pause()

    with child(stop_half_way) as pid:
        assert select.select([read], [], [], DEADLINE)[0]
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    newest = slots.newest()
    assert newest.step == 2 and bytes(slots.read(newest.slot)) == content(2, 100)
    successor = again(slots)
    save(successor, 3, 300)
    assert slots.newest().step == 3 and bytes(slots.read(slots.newest().slot)) == content(3, 300)
    release(slots, successor)
    os.close(read)
    os.close(write)
