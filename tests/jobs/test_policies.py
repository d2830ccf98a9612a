"""Policies: what they decide can be done, from any moment, and is what each promises."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moments import after, moment, moments

from manyhands.errors import UsageError
from manyhands.jobs import Move, Pack, Pause, Start
from manyhands.jobs.policies import POLICIES, policy_of

EVERY = [*POLICIES, "las:10:1000", "fifo+consolidate"]
PACKED = ["fifo+pack", "elastic+pack", "las+pack", "las+consolidate+pack"]
GOOD = {(a, b): (0.8, 0.5 + 0.1 * b) for a in range(3) for b in range(3)}


@pytest.mark.parametrize("name", PACKED)
@given(state=moments(elastic=True, pairs=GOOD))
@settings(max_examples=50)
def test_sharing_can_be_done_too(name, state):
    after(state, policy_of(name)(state))


@pytest.mark.parametrize("name", EVERY)
@given(state=moments(elastic=True))
@settings(max_examples=30)
def test_whatever_is_decided_can_be_done(name, state):
    after(state, policy_of(name)(state))


@pytest.mark.parametrize("name", [name for name in EVERY if name != "elastic"])
@given(state=moments())
@settings(max_examples=20)
def test_slots_are_idle_only_where_nobody_in_turn_fits(name, state):
    held = after(state, policy_of(name)(state))
    free = len(state.slots) - sum(map(len, held.values()))
    jobs = state.jobs
    waits = [row for row in range(len(jobs)) if int(jobs.number[row]) not in held and not jobs.held[row]]
    if waits:
        next_ = waits[:1] if name.startswith("fifo") else waits
        assert all(jobs.least[row] > free for row in next_)


def step(state, decisions):
    """The moment after it, in which nothing else has happened."""
    held, decided = after(state, decisions), {decision.job for decision in decisions}
    jobs = state.jobs
    rows = [
        {
            "number": int(jobs.number[row]),
            "least": int(jobs.least[row]),
            "most": int(jobs.most[row]),
            "user": int(jobs.user[row]),
            "priority": int(jobs.priority[row]),
            "service": float(jobs.service[row]),
            "spread": float(jobs.spread[row]),
            "kind": int(jobs.kind[row]),
            "on": held.get(int(jobs.number[row]), ()),
            "since": 0.0 if int(jobs.number[row]) in decided else float(jobs.since[row]),
        }
        for row in range(len(jobs))
    ]
    hosts = np.bincount(state.slots).tolist()
    held_rows = set(np.flatnonzero(jobs.held).tolist())
    return moment(hosts, rows, held_rows)


@pytest.mark.parametrize("name", [*POLICIES, "las+consolidate"])
@given(state=moments(elastic=True))
@settings(max_examples=20)
def test_nothing_flaps(name, state):
    """When nothing happens, nothing more is decided; consolidation may need a few turns."""
    policy = policy_of(name)
    for _ in range(8):
        decisions = policy(state)
        if not decisions:
            return
        state = step(state, decisions)
    raise AssertionError(f"still deciding: {decisions}")


def test_nobody_overtakes_a_large_gang():
    state = moment([4], [{"on": (0, 1)}, {"least": 4}, {"least": 1}])
    assert POLICIES["fifo"](state) == []
    state = moment([4], [{"least": 4}, {"least": 1}])
    assert POLICIES["fifo"](state) == [Start(100, (0, 1, 2, 3))]


def test_the_smallest_hole_that_fits():
    state = moment([4, 2, 4], [{"on": (0,)}, {"least": 2}])
    assert POLICIES["fifo"](state) == [Start(101, (4, 5))]
    state = moment([2, 4, 4], [{"least": 6}])
    (start,) = POLICIES["fifo"](state)
    assert sorted(state.slots[list(start.slots)]) in ([0, 0, 1, 1, 1, 1], [0, 0, 2, 2, 2, 2])


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(1, 10))
def test_as_few_hosts_as_can_be(hosts, least):
    if least > sum(hosts):
        return
    (start,) = POLICIES["fifo"](state := moment(hosts, [{"least": least}]))
    fewest = next(n for n in range(1, len(hosts) + 1) if sum(sorted(hosts)[-n:]) >= least)
    assert len(set(state.slots[list(start.slots)].tolist())) == fewest


def test_priority_preempts():
    state = moment([2], [{"on": (0,)}, {"on": (1,), "priority": 1}, {"least": 2, "priority": 2}, {"priority": 1}])
    held = after(state, POLICIES["priority"](state))
    assert held == {102: (0, 1)}


def test_service_levels():
    policy = policy_of("las:100:1000")
    state = moment([1], [{"on": (0,), "service": 99.0}, {"service": 0.0}])
    assert policy(state) == [], "the same level: who has the slot keeps it"
    state = moment([1], [{"on": (0,), "service": 100.0}, {"service": 50.0}])
    assert after(state, policy(state)) == {101: (0,)}


def test_users_share_by_weight():
    jobs = [{"user": user} for user in (0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1)]
    for shares, expected in (({}, [3, 3]), ({1: 2.0}, [2, 4])):
        state = moment([6], jobs, shares=shares)
        held = after(state, POLICIES["fair"](state))
        assert [sum(number - 100 in part for number in held) for part in (range(6), range(6, 12))] == expected


@given(state=moments(users=3))
@settings(max_examples=30)
def test_fair_is_max_min(state):
    """Nobody who waits could have a job run by taking a job from a user who then still has at least as much."""
    jobs = state.jobs
    held = after(state, POLICIES["fair"](state))
    free = len(state.slots) - sum(map(len, held.values()))
    has = dict.fromkeys(range(3), 0)
    for row in range(len(jobs)):
        has[int(jobs.user[row])] += len(held.get(int(jobs.number[row]), ()))
    for poor, rich in itertools.permutations(range(len(jobs)), 2):
        waits = int(jobs.number[poor]) not in held and not jobs.held[poor]
        taken = len(held.get(int(jobs.number[rich]), ()))
        first, second = int(jobs.user[poor]), int(jobs.user[rich])
        if waits and taken and first != second and jobs.least[poor] <= free + taken:
            assert has[second] - taken <= has[first] + jobs.least[poor], (has, poor, rich)


def test_a_gang_that_does_not_fit_costs_its_user_nothing():
    jobs = [{"user": 0, "least": 8}, *[{"user": 0}] * 4, *[{"user": 1}] * 8]
    held = after(state := moment([8], [{"user": 1, "on": (0,)}, *jobs]), POLICIES["fair"](state))
    assert sum(number in range(102, 106) for number in held) == 4, held


@pytest.mark.parametrize("name", ["priority", "las", "fair"])
def test_a_large_gang_gets_its_turn(name):
    """Small jobs that have slots go first, until it has waited for too long."""
    small = [{"on": (slot,), "service": 5.0} for slot in range(8)]
    for since, runs in ((100.0, False), (2000.0, True)):
        state = moment([8], [*small, {"least": 8, "since": since}, {"since": 0.0}])
        held = after(state, policy_of(name)(state))
        assert (108 in held) == runs, (name, since)


def test_new_jobs_do_not_keep_an_old_one_waiting_for_ever():
    old = {"service": 1e6, "least": 2, "since": 4e5}
    state = moment([2], [old, {"on": (0,)}, {"on": (1,)}])
    assert set(after(state, policy_of("las")(state))) == {101, 102}, "it has run for longer than it waits"
    state = moment([2], [{**old, "since": 6e5}, {"on": (0,)}, {"on": (1,)}])
    assert set(after(state, policy_of("las")(state))) == {100}


def test_no_slot_is_idle_behind_many_large_gangs():
    jobs = [*[{"least": 5, "priority": 1}] * 80, *[{}] * 100]
    state = moment([8], jobs)
    assert sum(map(len, after(state, POLICIES["priority"](state)).values())) == 8


def test_idle_slots_are_shared_out_and_given_back():
    state = moment([8], [{"least": 1, "most": 8, "on": (0,)}, {"least": 1, "most": 3, "on": (1,)}])
    held = after(state, POLICIES["elastic"](state))
    assert {number: len(slots) for number, slots in held.items()} == {100: 6, 101: 2}
    state = moment([8], [{"least": 1, "most": 8, "on": tuple(range(8))}, {"least": 4}])
    held = after(state, POLICIES["elastic"](state))
    assert {number: len(slots) for number, slots in held.items()} == {100: 4, 101: 4}


@pytest.mark.parametrize(("has", "since"), [(1, 10 / 7), (7, 70.0)])
def test_who_gains_little_grows_late(has, since):
    """5 s are made good for in 5 s * has / more."""
    for grows, after_seconds in ((False, since - 0.5), (True, since + 0.5)):
        state = moment([8], [{"least": 1, "most": 8, "on": tuple(range(has)), "since": after_seconds}])
        assert bool(policy_of("fifo+elastic", pause=5.0)(state)) == grows


def test_moves_that_pay():
    policy = policy_of("fifo+consolidate")
    spread = {"least": 2, "spread": 0.5, "service": 1000.0}
    state = moment([2, 2], [{**spread, "on": (0, 2)}])
    (move,) = policy(state)
    assert isinstance(move, Move)
    assert len(set(state.slots[list(move.slots)].tolist())) == 1
    assert set(move.slots) & {0, 2}, "one of its workers stays"
    assert policy(moment([2, 2], [{**spread, "on": (0, 2), "service": 1.0}])) == [], "too young"
    assert policy(moment([2, 2], [{**spread, "on": (0, 2), "spread": 1.0}])) == [], "it does not matter to it"
    assert policy(moment([2, 2], [{**spread, "on": (0, 2)}, {"on": (1,)}, {"on": (3,)}])) == [], "no room"


PAIRS = {(0, 0): (0.5, 0.5), (0, 1): (0.9, 0.8), (1, 1): (0.6, 0.7), (0, 2): (0.55, 0.5), (0, 3): (0.2, 0.95)}


def test_only_pairs_that_gain():
    policy = policy_of("fifo+pack")
    state = moment([1], [{"on": (0,), "kind": 0}, {"kind": 0}, {"kind": 2}, {"kind": 1}], pairs=PAIRS)
    assert policy(state) == [Pack(103, (0,))]
    state = moment([1], [{"on": (0,), "kind": 0}, {"kind": 0}, {"kind": 2}, {"kind": 5}, {"kind": 3}], pairs=PAIRS)
    assert policy(state) == [], "the last would gain, and hold the first up"


@given(st.lists(st.integers(0, 3), min_size=1, max_size=4), st.lists(st.integers(0, 3), min_size=1, max_size=4))
def test_no_pairing_gains_more(hosts, guests):
    pairs = {(a, b): (0.42 + 0.11 * a + 0.07 * b, 0.4 + 0.05 * a * b) for a in range(4) for b in range(a, 4)}
    jobs = [{"on": (slot,), "kind": kind} for slot, kind in enumerate(hosts)] + [{"kind": kind} for kind in guests]
    state = moment([len(hosts)], jobs, pairs=pairs)

    def gain(host, guest):
        total = sum(pairs[min(host, guest), max(host, guest)]) - 1
        return total if total > 0.1 else 0.0

    found = sum(gain(hosts[d.slots[0]], guests[d.job - 100 - len(hosts)]) for d in policy_of("fifo+pack")(state))
    short, long = (hosts, guests) if len(hosts) <= len(guests) else (guests, hosts)
    best = max(
        sum(gain(a, long[j]) for a, j in zip(short, chosen, strict=True))
        for chosen in itertools.permutations(range(len(long)), len(short))
    )
    assert found == pytest.approx(best)


def test_a_guest_gets_slots_of_its_own_or_waits_again():
    shared = [{"on": (0,), "kind": 0}, {"on": (0,), "kind": 1}]
    policy = policy_of("fifo+pack")
    assert policy(moment([2], shared, pairs=PAIRS)) == [Move(101, (1,))]
    assert policy(moment([1], shared, pairs=PAIRS)) == []
    state = moment([1], [*shared, {"priority": 1, "kind": 5}], pairs=PAIRS)
    decisions = policy_of("priority+pack")(state)
    assert {d for d in decisions if isinstance(d, Pause)} == {Pause(100), Pause(101)}
    assert after(state, decisions) == {102: (0,)}
    state = moment([1], [{**shared[0], "service": 1e6}, shared[1]], pairs=PAIRS)
    assert policy_of("las+pack")(state) == [Pause(100)], "the other stays where it is, alone"


@pytest.mark.parametrize("name", ["fif", "fifo+packed", "las:x", "fifo:3"])
def test_no_such_policy(name):
    with pytest.raises(UsageError, match=name.replace("+", r"\+")):
        policy_of(name)
