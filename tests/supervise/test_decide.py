"""Thousands of histories: deaths, hangs, resizes, layout changes, saves, handovers, hosts lost, stops, servers lost,
newcomers that die while building. Whatever happens, the run ends, from the newest state there is, and nobody is
left."""

import random
import signal
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model import TOTAL, Model

from manyhands.gang import Kind, Phase
from manyhands.plan import Plan
from manyhands.supervise import heard
from manyhands.supervise.decide import decide

PLANS = {
    "one": Plan(),
    "two": Plan(workers=2),
    "three": Plan(workers=3),
    "hosts": Plan(workers=2, hosts="here,a"),
    "away": Plan(workers=2, hosts="a,b"),
    "pp": Plan(layout="pp=2"),
    "shard": Plan(layout="dp=2,shard=2"),
    "local": Plan(workers=2, sync="local,every=2"),
    "server": Plan(workers=2, sync="server,servers=2"),
    "stale": Plan(workers=2, sync="server,servers=2,staleness=2"),
    "stale1": Plan(workers=2, sync="server,servers=1,staleness=any"),
}
MISHAPS = ["kill", "hang", "crash", "resize", "refuse", "cannot", "differs", "deviates", "host", "stop", "interrupt"]
LIKELY = [*MISHAPS, "kill", "resize", "resize"]
Choose = Callable[[Sequence[Any]], Any]
"""Chooses what happens."""
MOST_EVENTS = 3000
"""Far more than any history of these needs."""


def mishap(model: Model, what: str, choose: Choose) -> None:
    """Something goes wrong, or is asked for."""
    alive = sorted(model.puppets)
    match what:
        case "kill" | "hang" | "crash" if alive:
            status = {"kill": -signal.SIGKILL, "hang": -signal.SIGKILL, "crash": 1}[what]
            model.die(choose(alive), status, hung=what == "hang")
        case "resize" if model.at.ending is None:
            model.take(heard.resized(model.at, PLANS[choose(sorted(PLANS))]))
        case "refuse":
            model.fails_to_build = 1
        case "cannot":
            model.impossible = {"pp=2"}
        case "differs":
            model.different = {PLANS[choose(sorted(PLANS))].manner} - model.shown
        case "deviates":
            gangs = [p for p in model.puppets.values() if p.doing == "running" and Kind.of(p.plan).whole]
            gangs = [p for p in gangs if p.plan.gang == len(model.gang_of(p)) > 1]
            if gangs:
                wrong = choose([(), (0,), (1,)])
                back = choose([None, 0, 1, 3, 100])
                model.deviate(gangs[0], wrong if back is not None else wrong or (0,), back)
        case "host":
            for worker in [w for w in alive if model.puppets[w].host == "a"]:
                model.die(worker, None)
        case "stop":
            model.at = heard.asked_to_stop(model.at, "stopped by command")
        case "interrupt" if model.at.interrupts == 0:
            model.take(heard.interrupted(model.at, "SIGINT"))


def check(model: Model, before: int) -> None:
    """What must hold after every event."""
    at = model.at
    assert at.committed >= before or model.rewound, "committed steps stay committed"
    model.rewound = False
    assert not at.members.keys() & at.leaving.keys()
    for member in [*at.members.values(), *at.leaving.values()]:
        gone = [*model.refused, *(number for number, _ in model.ended)]
        known = member.worker in model.puppets or member.worker in gone
        assert known, f"{member} is no process"
    for worker, puppet in model.puppets.items():
        assert worker in at.members or worker in at.leaving, f"{puppet} is nobody's"
    if at.durable.writing:
        assert model.writing is not None, "whoever waits for a write waits for one that is on its way"


def waits_for_somebody(model: Model) -> bool:
    """Whether what the supervisor waits for can still come."""
    return bool(model.events()) or model.done


def run(model: Model, choose: Choose, mishaps: list[str]) -> None:
    """Let things happen in an order that is drawn, until the run is over."""
    for _ in range(MOST_EVENTS):
        before = model.at.committed
        model.decide()
        check(model, before)
        if model.done:
            break
        events = model.events()
        if mishaps and (not events or choose(range(6)) == 0):
            mishap(model, mishaps.pop(0), choose)
        elif events:
            model.happen(choose(events))
        else:
            raise AssertionError(f"everybody waits: {model.at}\n{list(model.puppets.values())}")
        check(model, before)
    assert model.done, f"it never ends: {model.at}"


def history(choose: Choose) -> Model:
    """A run from a plan that is chosen, with mishaps that are."""
    model = Model(PLANS[choose(sorted(PLANS))], choose([0, 0, 5]), choose([1, 4, 100]))
    model.spends = choose([False, False, True])
    run(model, choose, [choose(LIKELY) for _ in range(choose(range(9)))])
    return model


def check_end(model: Model) -> None:
    """What must hold when a run is over."""
    at = model.at
    assert at.ending is not None
    if at.ending.status == "finished":
        assert at.committed == TOTAL and at.sha256 == "abc"
        assert at.durable.step == TOTAL, "the last state is on disk"
    elif at.interrupts < 2 and at.ending.status == "stopped":
        assert at.durable.step >= model.newest, "the newest state there was is on disk"
    assert not at.phases & {Phase.RUNNING, Phase.SAVING, Phase.STARTING}


def chooser(seed: int) -> Choose:
    """By one number, which a failure names: drawing every choice through hypothesis takes twenty times as long."""
    chance = random.Random(seed)
    return lambda options: options[chance.randrange(len(options))]


seeds = st.integers(0, 2**40)


@settings(max_examples=1000)
@given(seeds)
def test_every_history_ends_with_nothing_lost(seed):
    check_end(history(chooser(seed)))


@settings(max_examples=300)
@given(seeds)
def test_a_decision_is_made_once(seed):
    """Asked again in the same situation, nothing more is done."""
    choose = chooser(seed)
    model = Model(PLANS[choose(sorted(PLANS))])
    for _ in range(choose(range(60))):
        model.decide()
        at, actions = decide(model.at)
        assert actions == () and at == model.at
        events = model.events()
        if model.done or not events:
            return
        if choose(range(9)) == 0:
            mishap(model, choose(MISHAPS), choose)
        else:
            model.happen(choose(events))


@pytest.mark.parametrize("name", sorted(PLANS))
def test_an_undisturbed_run_has_one_generation(name):
    model = Model(PLANS[name])
    while not model.done:
        model.decide()
        events = model.events()
        if events:
            model.happen(events[0])
    assert model.at.ending is not None and model.at.ending.status == "finished"
    assert model.at.generation is not None and model.at.generation.number == 1
    assert model.at.committed == TOTAL


# Named histories. What they need of real processes, one test of each kind shows (test_recovery.py and its neighbours);
# the other tests there are slow, as what they do beyond that is decided here.


def go_on(model: Model, until: Callable[[], bool] = lambda: False) -> None:
    """All that can happen happens in turn, until something has come about, or the run is over."""
    for turn in range(MOST_EVENTS):
        model.decide()
        if until() or model.done:
            return
        events = model.events()
        model.happen(events[turn % len(events)])
    raise AssertionError(f"it never comes about: {model.at}")


def begun(name: str, step: int, **how: int) -> Model:
    """A run that has committed so many steps."""
    model = Model(PLANS[name], **how)
    go_on(model, lambda: model.at.committed >= step)
    return model


def begins_again(model: Model) -> int:
    """Let it go on until the next generation trains; the step that it begins from."""
    before = generation(model)
    go_on(model, lambda: generation(model) > before)
    return min(puppet.step for puppet in model.puppets.values() if puppet.doing == "running")


def generation(model: Model) -> int:
    assert model.at.generation is not None
    return model.at.generation.number


def finishes(model: Model) -> None:
    go_on(model)
    assert model.at.ending is not None and model.at.ending.status == "finished", model.at.ending
    check_end(model)


def test_replicas_that_survive_are_kept():
    model = begun("three", 3)
    first = set(model.at.members)
    model.die(min(first), -signal.SIGKILL)
    steps = {puppet.step for puppet in model.puppets.values()}
    assert {begins_again(model)} == steps
    assert set(model.at.generation.gang) & first == first - {min(first)}
    assert Kind.of(model.at.generation.plan).whole
    finishes(model)


@pytest.mark.parametrize("name", ["one", "three", "hosts", "pp", "shard", "local", "server", "stale"])
def test_if_all_are_killed_at_once_the_newest_state_in_memory_is_what_is_left(name):
    model = begun(name, 6, every=2)
    assert model.held is not None and 0 < model.held.step <= model.newest
    for worker in list(model.puppets):
        model.die(worker, -signal.SIGKILL)
    assert begins_again(model) == model.held.step
    finishes(model)


def test_a_newcomer_that_fails_costs_the_resize_not_the_run():
    model = begun("two", 3)
    gang = model.at.generation.gang
    model.take(heard.resized(model.at, PLANS["three"]))
    model.fails_to_build = 1
    finishes(model)
    assert model.at.wanted == PLANS["two"] and model.at.generation.gang == gang and generation(model) == 1
    assert any("goes on with 2 worker(s)" in text for text in model.told)


@pytest.mark.parametrize("name", ["one", "two", "pp", "server"])
def test_a_worker_that_dies_of_itself_is_replaced_but_not_for_ever(name):
    model = begun(name, 3)
    model.die(min(model.puppets), 1)
    finishes(model)
    model = begun(name, 3)
    for attempt in range(3):
        model.die(min(model.puppets), 1)
        if attempt < 2:
            begins_again(model)
    go_on(model)
    assert model.at.ending is not None and model.at.ending.status == "failed"


@pytest.mark.parametrize("name", ["pp", "shard"])
def test_a_part_that_hangs_costs_all_parts(name):
    """None of them holds a whole state: all are forked anew, from the newest that was put together."""
    model = begun(name, 6, every=2)
    parts, kept = set(model.puppets), model.held.step
    model.die(max(parts), -signal.SIGKILL, hung=True)
    assert begins_again(model) == kept
    assert not parts & set(model.puppets)
    finishes(model)


@pytest.mark.parametrize("name", sorted(PLANS))
def test_a_stop_leaves_the_newest_state_and_any_other_plan_goes_on_from_it(name):
    model = begun(name, 5, every=100)
    model.at = heard.asked_to_stop(model.at, "stopped by command")
    go_on(model)
    check_end(model)
    assert model.at.ending.status == "stopped" and model.at.durable.step == model.at.committed >= 5
    for other in sorted(PLANS):
        resumed = Model(PLANS[other], model.at.durable.step)
        go_on(resumed, lambda run=resumed: run.at.generation is not None)
        steps = {puppet.step for puppet in resumed.puppets.values() if puppet.doing == "running"}
        assert steps == {model.at.durable.step}
        finishes(resumed)


@pytest.mark.parametrize("way", [("two", "local", "three", "two"), ("stale", "stale1", "two"), ("pp", "shard", "one")])
def test_policies_and_layouts_change_at_step_boundaries(way):
    """Each change is one generation more, from the step at which the one before paused."""
    model = begun(way[0], 2, every=100)
    for number, name in enumerate(way[1:], 2):
        model.take(heard.resized(model.at, PLANS[name]))
        assert begins_again(model) == model.at.committed
        assert generation(model) == number and model.at.generation.plan == PLANS[name]
        go_on(model, lambda step=model.at.committed: model.at.committed > step)
    finishes(model)


def test_the_only_server_is_lost_with_what_it_held():
    """Workers that wait for nobody hold no whole state: the run goes back to the newest that was kept."""
    model = begun("stale1", 6, every=4)
    (server,) = [worker for worker, puppet in model.puppets.items() if puppet.rank == 2]
    kept = model.held.step
    model.die(server, -signal.SIGKILL)
    assert begins_again(model) == kept
    finishes(model)


@pytest.mark.parametrize("rank", range(4))
def test_where_nobody_waits_whoever_is_lost_is_replaced_in_the_same_generation(rank):
    model = begun("stale", 3)
    (lost,) = [worker for worker, puppet in model.puppets.items() if puppet.rank == rank]
    model.die(lost, -signal.SIGKILL)
    finishes(model)
    assert generation(model) == 1
    assert model.at.generation.gang[rank] != lost


def test_a_stop_while_a_server_is_missing_waits_for_nobody():
    model = begun("stale", 6, every=4)
    (server,) = [worker for worker, puppet in model.puppets.items() if puppet.rank == 3]
    model.die(server, -signal.SIGKILL)
    go_on(model, lambda: server not in model.at.members)
    model.take(heard.interrupted(model.at, "SIGTERM"))
    go_on(model)
    check_end(model)
    assert model.at.ending.status == "stopped" and 0 < model.at.durable.step <= model.at.committed


@pytest.mark.parametrize("name", ["hosts", "away"])
def test_workers_anywhere_are_replaced_where_they_were(name):
    model = begun(name, 3)
    for host in sorted({puppet.host for puppet in model.puppets.values()}):
        (lost,) = [worker for worker, puppet in model.puppets.items() if puppet.host == host]
        places = sorted(puppet.host for puppet in model.puppets.values())
        model.die(lost, -signal.SIGKILL)
        begins_again(model)
        assert sorted(puppet.host for puppet in model.puppets.values()) == places
    finishes(model)


def test_a_run_on_a_host_that_is_not_to_be_reached_again_fails():
    model = begun("hosts", 3)
    model.broken_host = "a"
    for worker in [worker for worker, puppet in model.puppets.items() if puppet.host == "a"]:
        model.die(worker, None)
    go_on(model)
    assert model.at.ending is not None and model.at.ending.status == "failed"
    check_end(model)
    assert model.at.durable.step == model.newest
