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
MISHAPS = ["kill", "hang", "crash", "resize", "refuse", "cannot", "host", "stop", "interrupt"]
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
    assert at.committed >= before, "committed steps stay committed"
    assert not at.members.keys() & at.leaving.keys()
    for member in [*at.members.values(), *at.leaving.values()]:
        known = member.worker in model.puppets or any(number == member.worker for number, _ in model.ended)
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


@settings(max_examples=1500)
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


def test_replicas_that_survive_are_kept():
    model = Model(PLANS["three"])
    while model.at.committed < 3:
        model.decide()
        model.happen(model.events()[0])
    first = set(model.at.members)
    model.die(min(first), -signal.SIGKILL)
    while model.at.generation.number < 2:
        model.decide()
        model.happen(model.events()[0])
    assert set(model.at.generation.gang) & first == first - {min(first)}
    assert Kind.of(model.at.generation.plan).whole
