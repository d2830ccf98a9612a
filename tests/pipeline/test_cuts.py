"""Cuts: as good as trying all of them, within memory, and refused in words."""

from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyhands.errors import UsageError
from manyhands.pipeline import Link, UnitCost, balance, make_table, refine, simulate, stage_costs, verify


def unit(seconds=3, *, parameters=0, activations=0, crossing=0, name="unit"):
    part = seconds / 3
    return UnitCost(
        name=name,
        forward=part,
        input=part,
        weight=part,
        parameter_bytes=parameters,
        activation_bytes=activations,
        crossing_bytes=crossing,
    )


units = st.lists(
    st.builds(
        UnitCost,
        name=st.just("unit"),
        forward=st.integers(0, 9),
        input=st.integers(0, 9),
        weight=st.integers(0, 9),
        parameter_bytes=st.integers(0, 9),
        activation_bytes=st.integers(0, 9),
        crossing_bytes=st.integers(0, 9),
    ),
    min_size=1,
    max_size=9,
)


def measure(model, cuts):
    """Slowest stage, bytes across, evenness: what is to be least, in this order."""
    times = [sum(u.forward + u.input + u.weight for u in model[a:b]) for a, b in pairwise((*cuts, len(model)))]
    return max(times), sum(model[cut].crossing_bytes for cut in cuts[1:]), sum(time * time for time in times)


def fits(model, cuts, memory, live, copies):
    need = [
        copies * sum(u.parameter_bytes for u in model[a:b]) + live[stage] * sum(u.activation_bytes for u in model[a:b])
        for stage, (a, b) in enumerate(pairwise((*cuts, len(model))))
    ]
    return all(bytes <= limit for bytes, limit in zip(need, memory, strict=True))


def every(model, stages):
    return [(0, *rest) for rest in combinations(range(1, len(model)), stages - 1)]


@settings(max_examples=150, deadline=None)
@given(units, st.data())
def test_no_other_cuts_are_better(model, data):
    stages = data.draw(st.integers(1, len(model)))
    cuts = balance(model, stages)
    assert len(cuts) == stages and cuts[0] == 0
    assert measure(model, cuts) == min(measure(model, other) for other in every(model, stages))


@settings(max_examples=150, deadline=None)
@given(units, st.data())
def test_no_other_cuts_that_fit_are_better(model, data):
    stages = data.draw(st.integers(1, len(model)))
    memory, live = (
        data.draw(st.lists(st.integers(*ends), min_size=stages, max_size=stages)) for ends in ((0, 150), (1, 4))
    )
    allowed = [cuts for cuts in every(model, stages) if fits(model, cuts, memory, live, 3)]
    if allowed:
        cuts = balance(model, stages, memory, live=live, copies=3)
        assert cuts in allowed and measure(model, cuts) == min(measure(model, other) for other in allowed)
    else:
        with pytest.raises(UsageError, match=r"alone needs|No cut into"):
            balance(model, stages, memory, live=live, copies=3)


def test_a_heavy_head_gets_a_stage_and_the_rest_is_even():
    model = [unit(3) for _ in range(9)] + [unit(12, name="head")]
    assert balance(model, 4) == (0, 3, 6, 9)


def test_fewer_bytes_across_decide_between_equally_fast_cuts():
    model = [unit(3), unit(3), unit(3, crossing=9), unit(3, crossing=1), unit(6, crossing=5), unit(9, crossing=2)]
    assert balance(model, 3) == (0, 3, 5)  # slowest 9; (0, 2, 5) would be too, but sends 11 bytes


def test_memory_moves_a_cut_to_where_less_is_held():
    model = [unit(3, parameters=1, activations=10) for _ in range(8)]
    assert balance(model, 2) == (0, 4)
    held = verify(make_table("1f1b", 2, 8)).by_stage
    assert held == (2, 1)
    assert balance(model, 2, (75, 75), live=held, copies=4) == (0, 3)


@pytest.mark.parametrize(
    ("stages", "memory", "words"),
    [
        (4, None, "3 units cannot be cut into 4 stages.*Use 3 stages or fewer"),
        (0, None, "cannot be cut into 0 stages"),
        (2, (3900, 3900), "Unit big alone needs 4 kB, and no stage may use more than 3.9 kB"),
        (2, (4000, 900), "No cut into 2 stages fits into memory: the best needs 1.11 times"),
    ],
)
def test_what_cannot_be_cut_is_refused_in_words(stages, memory, words):
    model = [unit(parameters=0), unit(parameters=1000, name="big"), unit(parameters=250)]
    with pytest.raises(UsageError, match=words):
        balance(model, stages, memory)


def test_limits_must_be_there_for_each_stage():
    with pytest.raises(ValueError, match="memory has 1 values for 2 stages"):
        balance([unit(), unit()], 2, (1,))
    with pytest.raises(ValueError, match="live has 3 values for 2 stages"):
        balance([unit(), unit()], 2, live=(1, 1, 1))


def test_stages_cost_what_their_units_cost():
    model = [unit(3), unit(6, crossing=100), unit(9, crossing=200), unit(12, crossing=300)]
    costs = stage_costs(model, (0, 1, 3), [Link(100, 0.5), Link(50)], overhead=0.1)
    assert costs.forward == costs.input == costs.weight == (1, 5, 4)
    assert costs.send_forward == ((1, 0.5, 100), (6, 0, 300)) and costs.overhead == 0.1
    assert stage_costs(model, (0,)).forward == (10,)


@settings(max_examples=25, deadline=None)
@given(units.filter(lambda model: len(model) > 3), st.sampled_from(["1f1b", "interleaved", "zb-v"]))
def test_refined_cuts_are_never_slower(model, name):
    made = make_table(name, 2, 3)
    links = [Link(4, 1)] * (made.stages - 1)
    begin = balance(model, made.stages)
    end = refine(model, begin, made, links, 0.5)

    def seconds(cuts):
        return simulate(made, stage_costs(model, cuts, links, 0.5)).seconds

    assert end[0] == 0 and all(a < b for a, b in pairwise((*end, len(model))))
    assert seconds(end) <= seconds(begin)
    assert refine(model, begin, made, links, 0.5, fits=lambda cuts: False) == begin


def test_the_rank_with_the_heavy_end_of_a_v_is_relieved_at_its_beginning():
    model = [unit(3) for _ in range(24)] + [unit(18, name="head")]
    made = make_table("zb-v", 4, 8)
    begin = balance(model, 8)
    end = refine(model, begin, made)
    before, after = (simulate(made, stage_costs(model, cuts)).seconds for cuts in (begin, end))
    assert after < 0.95 * before
    assert end[1] < begin[1]
