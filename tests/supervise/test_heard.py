"""What a supervisor makes of news that no history of test_decide.py has."""

from dataclasses import replace

import pytest
from model import Model

from manyhands.gang import reports as said
from manyhands.plan import Plan
from manyhands.supervise import heard

BUILT = said.Built(bits=7, total_steps=18, samples=100, data="abc")


def fresh(**known):
    """A run of two workers that have been started."""
    model = Model(Plan(workers=2))
    model.at = replace(model.at, **known)
    model.decide()
    return model.at


def after(standing, *reports):
    """How a run stands when its workers have said this, one after another."""
    for worker, report in enumerate(reports):
        standing, _ = heard.hear(standing, worker, report)
    return standing


def test_the_same_data_goes_on():
    assert after(fresh(samples=100, data="abc", before=True), BUILT, BUILT).ending is None


OTHERS = {
    "101 samples on one worker and 100 on another": replace(BUILT, samples=101),
    "other samples on one worker and some on another": replace(BUILT, data="abd"),
}


@pytest.mark.parametrize("words", OTHERS)
def test_workers_that_read_other_data_are_refused(words):
    assert words in after(fresh(), BUILT, OTHERS[words]).ending.error


@pytest.mark.parametrize("changed", [{"samples": 99}, {"data": "other"}])
def test_data_that_has_changed_since_the_run_began_is_refused(changed):
    known = {"samples": 100, "data": "abc", "before": True} | changed
    ending = after(fresh(**known), BUILT).ending
    assert ending.status == "failed" and "--new-data" in ending.error


def test_samples_that_cannot_be_read_are_no_other_ones():
    assert after(fresh(), BUILT, replace(BUILT, data="")).ending is None


def test_a_job_with_fewer_steps_than_are_done_is_refused():
    ending = after(fresh(committed=19), BUILT).ending
    assert "has 18 steps now, and 19 are done" in ending.error and "manyhands convert" in ending.error


def running(**known):
    """A gang of two that trains."""
    model = Model(Plan(workers=2))
    model.at = replace(model.at, checks=False, **known)
    model.shown = {Plan(workers=2).manner}
    while not model.at.generation:
        model.decide()
        if model.events() and not model.at.generation:
            model.happen(model.events()[0])
    return model


def test_who_computed_something_wrong_is_replaced_and_the_others_keep_their_state():
    model = running()
    report = said.Deviated(step=7, ranks=(1,), since=None, error="worker 1 computed something wrongly.")
    model.take(heard.hear(model.at, 0, report))
    assert list(model.at.members) == [0] and model.at.members[0].whole
    assert any("worker 1 computed" in text for text in model.told)


def test_where_states_deviate_all_go_back_to_the_last_that_was_right():
    model = running(agreed=4, committed=9)
    model.written = [3, 6]
    report = said.Deviated(step=9, ranks=(), since=-1, error="they hold different weights.")
    model.take(heard.hear(model.at, 0, report))
    at = model.at
    assert not at.members and not at.leaving, "nobody's state is right, nor what they still say"
    assert (at.committed, at.checkpoint.step, at.durable.step, model.written) == (4, 3, 3, [3])


def test_all_say_so_and_it_counts_once():
    model = running(committed=9)
    report = said.Deviated(step=9, ranks=(1,), since=None, error="different.")
    for worker in (0, 1):
        model.take(heard.hear(model.at, worker, report))
    assert model.at.ending is None and sum("different." in text for text in model.told) == 1


def test_what_deviates_at_the_same_place_again_ends_the_run():
    model = running(committed=9, deviated_at=9)
    model.take(heard.hear(model.at, 0, said.Deviated(step=8, ranks=(), since=7, error="different.")))
    assert "second time" in model.at.ending.error and "--workers 1" in model.at.ending.error


def test_who_deviates_again_and_again_ends_the_run():
    model = running(committed=9, deviated_at=2, deviations=3)
    model.take(heard.hear(model.at, 0, said.Deviated(step=9, ranks=(1,), since=None, error="different.")))
    assert "the 4th time" in model.at.ending.error and "a machine errs" in model.at.ending.error
