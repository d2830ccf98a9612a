"""Who is hung: one that stands still while it should compute, not one that waits for it."""

from hypothesis import given
from hypothesis import strategies as st

from manyhands.shm import Whereabouts
from manyhands.supervise.patience import Patience
from manyhands.timeline import PHASES

SECOND = 10**9
NOW = 10**12


def at(phase: str, seconds: float) -> Whereabouts:
    """In a phase since so long ago."""
    return Whereabouts(1, 0, PHASES.index(phase), NOW - int(seconds * SECOND))


def learned(step: float = 0.1, least: float = 10.0) -> Patience:
    patience = Patience(least, 600.0)
    patience.learn(step)
    return patience


def test_before_the_first_step_patience_is_that_of_a_start():
    patience = Patience(10.0, 600.0)
    assert patience.hung({0: at("forward", 599)}, NOW) == set()
    assert patience.hung({0: at("forward", 601)}, NOW) == {0}


def test_the_limit_is_ten_of_the_longest_steps_and_never_below_the_least():
    patience = learned(0.1)
    assert patience.limit(PHASES.index("forward")) == 10.0
    patience.learn(3.0)
    patience.learn(0.2)
    assert patience.limit(PHASES.index("forward")) == 30.0
    assert patience.hung({0: at("backward", 29)}, NOW) == set()
    assert patience.hung({0: at("backward", 31)}, NOW) == {0}


def test_evaluating_and_saving_may_take_long():
    for phase in ("evaluate", "snapshot"):
        assert learned().hung({0: at(phase, 599), 1: at("idle", 599)}, NOW) == set()
        assert learned().hung({0: at(phase, 601)}, NOW) == {0}


def test_those_that_wait_for_a_hung_one_are_not_hung():
    running = {0: at("idle", 500), 1: at("backward", 500), 2: at("idle", 500), 3: at("idle", 5)}
    assert learned().hung(running, NOW) == {1}
    running[2] = at("data", 400)
    assert learned().hung(running, NOW) == {1, 2}


def test_those_that_wait_for_a_slow_one_are_not_hung():
    running = {0: at("idle", 500), 1: at("backward", 5), 2: at("idle", 500)}
    assert learned().hung(running, NOW) == set()


def test_if_all_wait_for_each_other_all_are_hung_in_the_end():
    assert learned().hung({0: at("idle", 15), 1: at("idle", 12)}, NOW) == set()
    assert learned().hung({0: at("idle", 25), 1: at("idle", 12)}, NOW) == {0}
    assert learned().hung({0: at("idle", 25), 1: at("idle", 21)}, NOW) == {0, 1}
    assert learned().hung({}, NOW) == set()


busy = st.sampled_from(["data", "forward", "backward", "exchange", "optimizer"])


@given(st.dictionaries(st.integers(0, 9), st.tuples(busy | st.just("idle"), st.floats(0, 100)), min_size=1))
def test_only_stale_ones_are_hung_and_waiting_ones_only_if_everyone_waits(places):
    running = {worker: at(*place) for worker, place in places.items()}
    hung = learned().hung(running, NOW)
    limits = {phase: learned().limit(PHASES.index(phase)) for phase, _ in places.values()}
    culprits = {w for w, (phase, seconds) in places.items() if phase != "idle" and seconds > limits[phase] + 0.001}
    assert culprits <= hung
    if any(phase != "idle" for phase, _ in places.values()):
        assert all(places[w][0] != "idle" and places[w][1] > limits[places[w][0]] - 0.001 for w in hung)


@given(st.dictionaries(st.integers(0, 4), st.tuples(busy | st.just("evaluate"), st.floats(0, 700)), min_size=1))
def test_the_next_look_comes_when_somebody_may_be_hung_and_not_at_once(places):
    patience = learned()
    running = {worker: at(*place) for worker, place in places.items()}
    wait = patience.next_check(running, NOW)
    assert wait >= 0.1
    if not patience.hung(running, NOW):
        assert not patience.hung(running, NOW + int((wait - 0.2) * SECOND))
        assert patience.hung(running, NOW + int((wait + 0.2) * SECOND)) or wait == 10.0


def test_who_may_take_long_now_is_looked_at_again_as_if_it_might_not():
    assert learned().next_check({0: at("snapshot", 0)}, NOW) == 10.0


def test_reading_a_sample_may_take_longer_than_computing():
    assert learned().hung({0: at("data", 59)}, NOW) == set()
    assert learned().hung({0: at("data", 61)}, NOW) == {0}


def test_a_new_worker_has_the_patience_of_a_start_for_its_first_step():
    running = {0: at("forward", 100), 1: at("forward", 100)}
    assert learned().hung(running, NOW, fresh={1}) == {0}
    assert learned().hung({1: at("forward", 601)}, NOW, fresh={1}) == {1}


def test_who_takes_the_place_of_one_that_was_ended_has_more_time_there():
    patience = learned()
    patience.killed(at("forward", 11))
    assert patience.hung({0: at("forward", 39)}, NOW) == set()
    assert patience.hung({0: at("forward", 41)}, NOW) == {0}
    assert patience.hung({0: at("backward", 11)}, NOW) == {0}, "elsewhere it has not"


def test_nobody_runs():
    assert learned().next_check({}, NOW) == 600.0
