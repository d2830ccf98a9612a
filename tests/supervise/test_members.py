"""Where a new generation's state comes from: always the newest whole one there is."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyhands.gang import Member, Phase
from manyhands.gang.orders import InMemory, OnDisk
from manyhands.plan import Plan
from manyhands.run import Checkpoint
from manyhands.shm import Held
from manyhands.supervise.members import Source, choose_source, handover


def members(*steps: int, bits: tuple[int, ...] | None = None) -> list[Member]:
    """Idle workers 10, 11, ... that hold so many steps."""
    bits = bits or (7,) * len(steps)
    return [
        Member(worker=10 + i, device=i, plan=Plan(), phase=Phase.IDLE, step=step, bits=bit)
        for i, (step, bit) in enumerate(zip(steps, bits, strict=True))
    ]


def disk(step: int) -> Checkpoint:
    return Checkpoint(step, Path("/run/checkpoints/step"))


def from_slot(slot: int, step: int) -> Source:
    return Source(InMemory(buffer=slot, step=step), None)


def from_disk(step: int) -> Source:
    return Source(OnDisk(path="/run/checkpoints/step/state.safetensors", step=step), None)


HERE = Source(None, None)


@pytest.mark.parametrize(
    ("steps", "slot", "checkpoint", "expected"),
    [
        ((0, 0), None, None, HERE),  # all begin afresh
        ((5, 5, 5), None, None, HERE),
        ((5, 5), Held(0, 4), disk(3), HERE),  # what they hold is newer than anything kept
        ((5, 5), Held(0, 5), disk(5), HERE),  # or as new
        ((0, 0), Held(1, 4), None, from_slot(1, 4)),  # all lost, a snapshot is there
        ((0, 0), Held(1, 4), disk(3), from_slot(1, 4)),
        ((0, 0), Held(1, 4), disk(4), from_slot(1, 4)),  # memory is quicker than disk
        ((0, 0), Held(1, 4), disk(9), from_disk(9)),
        ((0, 0), None, disk(9), from_disk(9)),  # a resumed run
        ((3, 0), None, disk(9), from_disk(9)),
        ((3, 0), Held(0, 8), disk(2), from_slot(0, 8)),
        ((5, 0), Held(0, 5), None, from_slot(0, 5)),  # a newcomer takes what the slot holds already
        ((5, 0), Held(0, 4), None, Source(None, 10)),  # a survivor has to save first
        ((0, 5, 5), Held(0, 4), disk(2), Source(None, 11)),  # the one with the lowest number
        ((4, 5), None, None, Source(None, 11)),  # one reached the boundary and the other did not
        ((5, 0), None, disk(5), Source(None, 10)),
        ((1,), None, None, HERE),
    ],
)
def test_the_newest_state_is_found(steps, slot, checkpoint, expected):
    assert choose_source(members(*steps), slot, checkpoint) == expected


def settle(group, slot, checkpoint):
    """What the supervisor does: while a member must save first, it saves, and then the question is put again."""
    for _ in range(3):
        source = choose_source(group, slot, checkpoint)
        if source.save_first is None:
            return source
        saver = next(member for member in group if member.worker == source.save_first)
        slot = Held(1 - slot.slot if slot else 0, saver.step)
    raise AssertionError(f"{source} again and again: a member saves for ever and nobody starts")


@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=4),
    st.none() | st.builds(Held, st.integers(0, 1), st.integers(0, 7)),
    st.none() | st.integers(1, 7).map(disk),
)
def test_a_generation_always_begins_from_the_newest(steps, slot, checkpoint):
    group = members(*steps)
    source = settle(group, slot, checkpoint)
    newest = max([*steps, slot.step if slot else 0, checkpoint.step if checkpoint else 0])
    if source.load is None:
        assert set(steps) == {newest}
    else:
        assert source.load.step == newest


def test_unequal_beginnings_are_made_equal():
    """Models that should follow from the seed and do not: one member's weights are given to all."""
    group = members(0, 0, 0, bits=(1, 1, 2))
    assert choose_source(group, None, None) == Source(None, 10)
    source = settle(group, None, None)
    assert source.load is not None and source.load.step == 0


def test_unequal_beginnings_do_not_matter_once_steps_are_done():
    assert choose_source(members(3, 3, bits=(1, 2)), None, None) == HERE
    assert choose_source(members(0, 0, bits=(1, 2)), Held(0, 3), None) == from_slot(0, 3)


def test_who_holds_state():
    for phase in Phase:
        (member,) = members(1)
        member = replace(member, phase=phase)
        assert member.holds_state is (phase in (Phase.IDLE, Phase.FINISHED, Phase.FAILED))
        assert not replace(member, whole=False).holds_state


def on_hosts(*where: tuple[str, int], plan: str = "a=1") -> list[Member]:
    return [
        Member(worker=i, device=0, plan=Plan(hosts=plan), host=host, phase=Phase.IDLE, step=step)
        for i, (host, step) in enumerate(where)
    ]


@pytest.mark.parametrize(
    ("where", "chosen", "slot", "expected"),
    [
        ([("a", 5), ("b", 0)], [1], None, [0, 1]),  # it moves
        ([("a", 5), ("b", 0), ("c", 0)], [1, 2], None, [0, 1, 2]),
        ([("a", 5), ("a", 5), ("b", 0)], [0, 2], None, [0, 2]),  # who stays gives
        ([("a", 5), ("a", 0)], [0, 1], None, []),  # on one host it goes through a slot
        ([("a", 5), ("a", 0)], [1], None, [0, 1]),
        ([("a", 5), ("b", 0)], [1], 6, []),  # what is kept is newer
        ([("a", 5), ("b", 0)], [1], 5, [0, 1]),
        ([("a", 0), ("b", 0)], [1], None, []),  # all begin afresh
        ([("b", 3)], [0], None, []),
    ],
)
def test_who_gives_its_state_to_whom(where, chosen, slot, expected):
    all_members = on_hosts(*where)
    found = handover(all_members, [all_members[i] for i in chosen], Held(0, slot) if slot else None, None)
    assert [member.worker for member in found] == expected


def test_parts_of_a_state_are_not_handed_over():
    split = Plan(layout="pp=2", hosts="a=1,b=1")
    gang = [replace(member, plan=split) for member in on_hosts(("a", 5), ("b", 0), plan="a=1,b=1")]
    assert handover(gang, gang[1:], None, None) == []
