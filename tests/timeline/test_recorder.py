"""The phase clock: spans tile the time, sums are the spans' sums."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyhands.timeline import PHASES, Recorder, recorder


class Clock:
    def __init__(self, monkeypatch):
        self.now = 1000
        monkeypatch.setattr(recorder, "monotonic_ns", lambda: self.now)


@given(st.lists(st.tuples(st.sampled_from(PHASES), st.integers(-1, 3), st.integers(0, 50)), max_size=30))
def test_spans_tile_the_time_and_add_up_to_the_sums(changes):
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock(patch)
        measured = Recorder()
        truth = dict.fromkeys(PHASES, 0)
        current = "idle"
        for phase, micro_batch, wait in changes:
            truth[current] += wait
            clock.now += wait
            measured.enter(phase, micro_batch)
            current = phase
            assert (measured.phase, measured.micro_batch) == (phase, micro_batch)
        truth[current] += 7
        clock.now += 7
        sums, spans = measured.take()
    assert sums == [truth[name] for name in PHASES]
    assert spans[0][2] == 1000 and spans[-1][3] == clock.now
    assert all(left[3] == right[2] for left, right in itertools.pairwise(spans))
    assert all(start < end for _, _, start, end in spans)
    for index in range(len(PHASES)):
        assert sums[index] == sum(end - start for phase, _, start, end in spans if phase == index)


def test_take_cuts_the_open_span_and_begins_again(monkeypatch):
    clock = Clock(monkeypatch)
    measured = Recorder()
    measured.enter("forward", 2)
    clock.now += 10
    first_sums, first = measured.take()
    clock.now += 5
    measured.enter("backward", 2)
    second_sums, second = measured.take()
    forward = PHASES.index("forward")
    assert first == [(forward, 2, 1000, 1010)] and first_sums[forward] == 10
    assert second == [(forward, 2, 1010, 1015)] and second_sums[forward] == 5 and sum(second_sums) == 5


def test_without_spans_the_sums_go_on(monkeypatch):
    clock = Clock(monkeypatch)
    measured = Recorder()
    measured.keep_spans = False
    clock.now += 10
    sums, spans = measured.take()
    assert (sum(sums), spans) == (10, [])


def test_every_change_is_published():
    seen = []
    measured = Recorder(lambda phase, micro_batch: seen.append((PHASES[phase], micro_batch)))
    measured.enter("data", 0)
    measured.enter("exchange")
    assert seen == [("data", 0), ("exchange", -1)]


def test_an_unknown_phase_is_refused():
    with pytest.raises(KeyError):
        Recorder().enter("lunch")
