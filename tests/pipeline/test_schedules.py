"""Every generator: right for any size, as fast as theory says, with no more memory than promised."""

import pytest

from manyhands.errors import UsageError
from manyhands.pipeline import SCHEDULES, bubble_theory, even_costs, make_table, simulate, verify

SIZES = [(p, m) for p in range(1, 6) for m in range(1, 13)] + [(8, m) for m in (1, 7, 8, 9, 15, 16, 17, 32)]
EVERY = [(name, v) for name, s in SCHEDULES.items() for v in ((1, 2, 3) if s.chooses_virtual else (s.virtual,))]


def row(made, rank):
    return " ".join(map(str, made.ranks[rank]))


@pytest.fixture(scope="module")
def results():
    """Everything made, verified and simulated once."""
    made = {}
    for name, v in EVERY:
        for p, m in SIZES:
            one = make_table(name, p, m, v)
            made[name, v, p, m] = one, verify(one), simulate(one, even_costs(one.stages))
    return made


@pytest.mark.parametrize(("name", "v"), EVERY)
def test_the_bubble_is_what_theory_says(results, name, v):
    for p, m in SIZES:
        theory, found = bubble_theory(name, p, m, v), results[name, v, p, m][2].bubble
        if theory is not None:
            assert found == pytest.approx(theory, abs=1e-9), (p, m)
        else:
            assert name == "zb-v" and m < p


@pytest.mark.parametrize(
    ("name", "v", "bubble"),
    [
        ("vanilla", 1, lambda p, m: (p - 1) / p),
        ("gpipe", 1, lambda p, m: (p - 1) / (m + p - 1)),
        ("1f1b", 1, lambda p, m: (p - 1) / (m + p - 1)),
        ("interleaved", 2, lambda p, m: (p - 1) / (2 * m + p - 1)),
        ("interleaved", 3, lambda p, m: (p - 1) / (3 * m + p - 1)),
        ("zb-h1", 1, lambda p, m: (p - 1) / (3 * m + p - 1)),
        ("zb-v", 2, lambda p, m: (p - 1) / (6 * m + p - 1)),
    ],
)
def test_the_published_formulas_hold_from_as_many_micro_batches_as_ranks(results, name, v, bubble):
    for p, m in SIZES:
        if m >= p:
            assert results[name, v, p, m][2].bubble == pytest.approx(bubble(p, m), abs=1e-9), (p, m)


@pytest.mark.parametrize(
    ("name", "live"),
    [
        ("vanilla", lambda p, m, rank: 1),
        ("gpipe", lambda p, m, rank: m),
        ("1f1b", lambda p, m, rank: min(m, p - rank)),
        ("zb-h1", lambda p, m, rank: min(m, p)),
    ],
)
def test_live_activations_are_what_the_literature_says(results, name, live):
    for p, m in SIZES:
        assert results[name, 1, p, m][1].high_water == tuple(live(p, m, rank) for rank in range(p)), (p, m)


def test_a_v_holds_no_more_than_1f1b_does_on_its_first_rank(results):
    for p, m in SIZES:
        assert max(results["zb-v", 2, p, m][1].high_water) <= 2 * min(m, p), (p, m)


def test_interleaving_grows_with_the_ranks_and_not_with_the_micro_batches(results):
    """Its lead (two for each hop, and a group for each stage but the last) and one: (p - 1) 2 + (v - 1) p + 1."""
    for v in (2, 3):
        for p, m in SIZES:
            most, group = max(results["interleaved", v, p, m][1].high_water), -(-m // max(1, m // p))
            assert most == min(v * m, 2 * (p - 1) + (v - 1) * group + 1), (v, p, m)
            if m % p == 0:
                assert most <= (v + 1) * p - 1


def test_placement():
    assert make_table("1f1b", 3, 2).placement == (0, 1, 2)
    assert make_table("interleaved", 3, 2, 3).placement == (0, 1, 2) * 3
    assert make_table("zb-v", 3, 2).placement == (0, 1, 2, 2, 1, 0)


def test_interleaving_one_stage_per_rank_is_1f1b():
    for p, m in ((1, 1), (3, 2), (4, 8)):
        assert make_table("interleaved", p, m, 1).ranks == make_table("1f1b", p, m).ranks


@pytest.mark.parametrize(
    ("name", "rank", "wanted"),
    [
        ("vanilla", 1, "1F0 1B0 1F1 1B1 1F2 1B2 1F3 1B3"),
        ("gpipe", 1, "1F0 1F1 1F2 1F3 1B0 1B1 1B2 1B3"),
        ("1f1b", 0, "0F0 0F1 0B0 0F2 0B1 0F3 0B2 0B3"),
        ("1f1b", 1, "1F0 1B0 1F1 1B1 1F2 1B2 1F3 1B3"),
        ("interleaved", 0, "0F0 0F1 2F0 2F1 0F2 2B0 0F3 2B1 2F2 0B0 2F3 0B1 2B2 2B3 0B2 0B3"),
        ("interleaved", 1, "1F0 1F1 3F0 3B0 3F1 3B1 1F2 1B0 1F3 1B1 3F2 3B2 3F3 3B3 1B2 1B3"),
        ("zb-h1", 0, "0F0 0F1 0I0 0W0 0F2 0I1 0W1 0F3 0I2 0W2 0I3 0W3"),
        ("zb-h1", 1, "1F0 1I0 1F1 1I1 1W0 1F2 1I2 1W1 1F3 1I3 1W2 1W3"),
        ("zb-v", 0, "0F0 0F1 0F2 3F0 3I0 3W0 3F1 3I1 3W1 0F3 0I0 0W0 3F2 3I2 3W2 0I1 0W1 3F3 3I3 3W3 0I2 0W2 0I3 0W3"),
        ("zb-v", 1, "1F0 2F0 1F1 2F1 2I0 2W0 1F2 1I0 1W0 2F2 2I1 2W1 1F3 1I1 1W1 2F3 2I2 2W2 2I3 1I2 1I3 1W2 2W3 1W3"),
    ],
)
def test_two_ranks_and_four_micro_batches_as_the_papers_draw_them(name, rank, wanted):
    assert row(make_table(name, 2, 4), rank) == wanted


def test_three_micro_batches_on_four_ranks():
    made = make_table("1f1b", 4, 3)
    assert [row(made, rank) for rank in (0, 2, 3)] == [
        "0F0 0F1 0F2 0B0 0B1 0B2",
        "2F0 2F1 2B0 2F2 2B1 2B2",
        "3F0 3B0 3F1 3B1 3F2 3B2",
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("zbv", 2, 2), "no pipeline schedule 'zbv'; there are vanilla, .* Did you mean zb-v?"),
        (("1F1B", 2, 2), "Did you mean 1f1b?"),
        (("gpipe", 2, 2, 2), "virtual=2: schedule gpipe has one stage on each rank.*schedule=interleaved,virtual=2"),
        (("zb-v", 2, 2, 1), "virtual=1: schedule zb-v has 2 stages on each rank"),
        (("interleaved", 2, 2, 0), "virtual=0: a rank needs at least one stage"),
        (("1f1b", 0, 2), "at least one rank, not 0"),
        (("1f1b", 2, 0), "at least one micro-batch, not 0"),
    ],
)
def test_what_cannot_be_made_is_refused_in_words(arguments, words):
    with pytest.raises(UsageError, match=words):
        make_table(*arguments)


def test_every_schedule_says_what_it_is():
    for name, schedule in SCHEDULES.items():
        made = make_table(name, 4, 8)
        assert schedule.name == made.schedule == name and schedule.summary
        assert schedule.splits_backward == made.splits_backward == bool(schedule.needs)
