"""What a controller does about targets: slots are handed over, never doubled, and everybody gets its target."""

from collections import defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st

from manyhands.jobs.controller.scheduling.orders import Adopt, Alive, Change, Halt, Launch, orders
from manyhands.jobs.controller.storage.record import Job


def job(number: int, target=(), held=()) -> Job:
    row = Job(
        number=number, key=str(number), name="", file="", arguments=[], cwd="", flags={}, least=1, most=4, priority=0,
        user="", submitted=0.0,
    )  # fmt: skip
    row.target, row.held = tuple(target), tuple(held)
    return row


HOSTS = ["a", "a", "b", "b"]


def test_a_newcomer_waits_until_the_slots_are_left():
    leaves, comes = job(1, (), (0, 1)), job(2, (0, 1))
    assert orders([leaves, comes], {1: Alive()}, HOSTS) == [Halt(1)]
    assert orders([leaves, comes], {1: Alive(told=True)}, HOSTS) == []
    leaves.held = ()
    assert orders([leaves, comes], {}, HOSTS) == [Launch(2)]


def test_who_shares_does_not_wait():
    host, guest = job(1, (0, 1), (0, 1)), job(2, (0, 1))
    assert orders([host, guest], {1: Alive()}, HOSTS) == [Launch(2)]


def test_other_slots_of_the_same_hosts_are_nothing_to_a_gang():
    assert orders([job(1, (1,), (0,))], {1: Alive()}, HOSTS) == [Adopt(1)]
    assert orders([job(1, (2,), (0,))], {1: Alive()}, HOSTS) == [Change(1)]
    assert orders([job(1, (1,), (0,))], {1: Alive(rigid=True)}, HOSTS) == [Halt(1)], "a device is not another"
    assert orders([job(1, (1,), (0,))], {1: Alive(ready=False)}, HOSTS) == []


def test_what_another_controller_may_have_said_is_said_again():
    assert orders([job(1, (0,), (0,))], {1: Alive(unsure=True)}, HOSTS) == [Change(1)]
    assert orders([job(1, (0,), (0,))], {1: Alive(unsure=True, ready=False)}, HOSTS) == []


def test_two_that_change_places_do_not_wait_for_each_other_for_ever():
    one, two = job(1, (2, 3), (0, 1)), job(2, (0, 1), (2, 3))
    assert orders([one, two], {1: Alive(), 2: Alive()}, HOSTS) == [Halt(1)]


class World:
    """Gangs that obey, in their own time."""

    def __init__(self, rigid: bool) -> None:
        self.jobs = [job(number) for number in range(1, 5)]
        self.alive: dict[int, dict] = {}
        self.rigid = rigid

    def act(self) -> int:
        alive = {
            n: Alive(ready=g["ready"], busy=g["to"] is not None, told=g["told"], rigid=self.rigid)
            for n, g in self.alive.items()
        }
        found = orders(self.jobs, alive, HOSTS)
        for order in found:
            row = self.jobs[order.job - 1]
            if isinstance(order, Launch):
                row.held = row.target
                self.alive[row.number] = {"ready": False, "to": None, "told": False, "has": row.target}
            elif isinstance(order, Halt):
                row.halting = True
                self.alive[row.number]["told"] = True
            elif isinstance(order, Change):
                self.alive[row.number]["to"] = row.target
                row.held = tuple({*row.held, *row.target})
            else:
                row.held = row.target
                self.alive[row.number]["has"] = row.target
        self.check()
        return len(found)

    def event(self, number: int) -> bool:
        gang, row = self.alive.get(number), self.jobs[number - 1]
        if gang is None:
            return False
        if gang["told"]:
            del self.alive[number]
            row.held, row.halting = (), False
        elif not gang["ready"]:
            gang["ready"] = True
        elif gang["to"] is not None:
            gang["has"] = row.held = gang["to"]
            gang["to"] = None
        else:
            return False
        self.check()
        return True

    def check(self) -> None:
        on = defaultdict(set)
        for row in self.jobs:
            gang = self.alive.get(row.number)
            if gang is not None:
                assert set(gang["has"]) | set(gang["to"] or ()) <= set(row.held), "what it has is written down"
            for slot in row.held:
                on[slot].add(row.number)
        assert all(len(there) == 1 for there in on.values()), "a slot has one holder"


targets = st.lists(st.integers(0, 4), min_size=4, max_size=4)
"""By slot, who is to have it; 0: nobody."""


@settings(max_examples=300)
@given(
    steps=st.lists(st.tuples(targets, st.lists(st.integers(1, 4), max_size=4)), min_size=1, max_size=6),
    rigid=st.booleans(),
)
def test_slots_are_never_doubled_and_everybody_ends_with_its_target(steps, rigid):
    world = World(rigid)
    for owners, events in steps:
        for row in world.jobs:
            row.target = tuple(slot for slot, owner in enumerate(owners) if owner == row.number)
        world.act()
        for number in events:
            world.event(number)
            world.act()
    for _ in range(100):
        moved = sum(world.event(number) for number in range(1, 5))
        if not moved and not world.act():
            break
    for row in world.jobs:
        assert row.held == row.target
        assert (row.number in world.alive) == bool(row.target)
