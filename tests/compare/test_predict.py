"""What a layout is predicted to do, against arithmetic by hand and the closed formulas."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyhands.compare import Links, Profile, parse_layouts, predict
from manyhands.errors import UsageError
from manyhands.pipeline import UnitCost, bubble_theory
from manyhands.plan import Layout

FREE = Links(latency=0.0, bandwidth=math.inf, sum_latency=0.0, sum_bandwidth=math.inf)


def profile(units=4, micro_batches=8, **given):
    cost = UnitCost(
        name="block", forward=0.01, input=0.01, weight=0.01, parameter_bytes=1000, activation_bytes=300,
        crossing_bytes=500,
    )  # fmt: skip
    values = {
        "micro_batches": micro_batches, "data": 0.0, "forward": 0.01 * units, "backward": 0.02 * units, "exchange": 0.0,
        "optimizer": 0.0, "units": (cost,) * units, "forward_operators": (10.0,) * units, "backward_operators": 15.0,
        "data_operators": 2.0, "step_operators": 40.0, "parameters_by_unit": (4,) * units, "optimizer_bytes": 8000,
        "peak_bytes": 100_000, "cores": None,
    }  # fmt: skip
    return Profile(**values | given)


def cuts(layout, units):
    return tuple(units * stage // layout.stages for stage in range(layout.stages))


times = st.floats(1e-4, 0.1)


@given(data=times, forward=times, backward=times, exchange=times, optimizer=times, micro_batches=st.integers(1, 9))
def test_one_worker_is_predicted_to_do_what_it_did(data, forward, backward, exchange, optimizer, micro_batches):
    seen = profile(
        micro_batches=micro_batches, data=data, forward=forward, backward=backward, exchange=exchange,
        optimizer=optimizer,
    )  # fmt: skip
    alone = predict(Layout(), (0,), seen, FREE)
    assert alone.seconds == pytest.approx(micro_batches * (data + forward + backward) + exchange + optimizer, rel=1e-5)
    assert alone.idle == (pytest.approx(0, abs=1e-6),)
    assert (alone.sent, alone.actions, alone.memory) == ((0,), (2 * micro_batches,), (100_000,))
    assert alone.operators == (micro_batches * (2 + 40 + 15) + 40,)


@pytest.mark.parametrize("schedule", ["vanilla", "gpipe", "1f1b", "interleaved"])
@pytest.mark.parametrize("ranks", [2, 4])
def test_even_stages_and_free_links_give_the_bubble_of_theory(schedule, ranks):
    layout = Layout(pp=ranks, schedule=schedule)
    seen = profile(units=8)
    found = predict(layout, cuts(layout, 8), seen, FREE)
    assert found.idle == (pytest.approx(bubble_theory(schedule, ranks, 8, layout.stages_per_rank), abs=1e-3),) * ranks
    work = 8 * 8 * 0.03
    assert found.seconds == pytest.approx(work / ranks / (1 - found.idle[0]), rel=1e-3)


def test_bytes_are_those_over_cuts_and_between_replicas():
    seen = profile(units=4, micro_batches=8)
    assert predict(Layout(dp=4), (0,), seen, FREE).sent == (6000,) * 4  # 2 (n - 1) / n of 4000
    first, last = predict(Layout(pp=2), (0, 2), seen, FREE).sent
    assert (first, last) == (8 * (500 + 5056), 8 * 500)
    mixed = predict(Layout(pp=2, dp=2), (0, 2), seen, FREE).sent
    assert mixed == (4 * 5556 + 2000, 4 * 5556 + 2000, 4 * 500 + 2000, 4 * 500 + 2000)
    gathered = predict(Layout(dp=2, shard=1), (0,), seen, FREE).sent
    assert gathered == (4000 + 2000,) * 2


def test_a_sum_takes_what_the_links_say():
    links = Links(latency=0.0, bandwidth=math.inf, sum_latency=0.25, sum_bandwidth=4000)
    seconds = predict(Layout(dp=2), (0,), profile(), links).seconds
    assert seconds == pytest.approx(4 * 0.12 + 0.25 + 1.0 + 0.25, rel=1e-5)  # then everyone hears that all are done


def test_operators_and_actions_are_divided():
    seen = profile(units=4, micro_batches=8)
    assert predict(Layout(dp=2), (0,), seen, FREE).operators == (4 * 57 + 40,) * 2
    found = predict(Layout(pp=2), (0, 1), seen, FREE)
    assert found.operators == (round(8 * (2 + 10 + 15 / 4) + 10), round(8 * (2 + 30 + 45 / 4) + 30))
    assert found.actions == (32, 32)  # forward, send, receive, backward
    assert predict(Layout(pp=2, schedule="zb-h1"), (0, 2), seen, FREE).actions == (40, 40)


def test_memory_follows_the_schedule():
    seen = profile(units=4, micro_batches=8)
    besides = 100_000 - (4000 + 4 * 4000 + 8000 + 1200)
    one = predict(Layout(pp=2, schedule="1f1b"), (0, 2), seen, FREE).memory
    assert one == tuple(besides + 2000 + 4 * 2000 + 4000 + live * 600 for live in (2, 1))
    all_at_once = predict(Layout(pp=2, schedule="gpipe"), (0, 2), seen, FREE).memory
    assert all_at_once[0] - one[0] == 6 * 600


@given(st.sampled_from(["dp=4", "pp=4", "dp=2,pp=2", "pp=2,tp=2", "pp=4,schedule=zb-h1"]), st.integers(1, 4))
def test_ranks_cannot_do_more_than_the_cores(text, cores):
    layout = Layout.parse(text)
    seconds = predict(layout, cuts(layout, 4), profile(cores=cores), FREE).seconds
    free = predict(layout, cuts(layout, 4), profile(cores=None), FREE).seconds
    assert seconds >= 8 * 4 * 0.03 / cores * (1 - 1e-6) and seconds >= free
    assert cores < 4 or seconds == pytest.approx(free)


def test_one_worker_comes_first_and_each_layout_once():
    assert parse_layouts("dp=2; pp=2;dp=1;pp=2,schedule=1f1b;") == (Layout(), Layout(dp=2), Layout(pp=2))
    with pytest.raises(UsageError, match="schedule=nothing"):
        parse_layouts("dp=2;pp=2,schedule=nothing")
