"""Layouts: what text and numbers mean, and which make no sense."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyhands.errors import UsageError
from manyhands.pipeline.schedules import SCHEDULES, make_table
from manyhands.plan import DIMENSIONS, Layout, complete
from manyhands.plan.layout import STAGES_PER_RANK, ZERO_BUBBLE


def make(**values):
    try:
        return Layout(**values)
    except UsageError:
        return None


layouts = st.builds(
    make,
    dp=st.integers(1, 4),
    pp=st.integers(1, 4),
    tp=st.integers(1, 3),
    shard=st.integers(0, 3),
    virtual=st.none() | st.integers(1, 3),
    schedule=st.sampled_from(list(STAGES_PER_RANK)),
    cuts=st.just(()) | st.lists(st.sampled_from(["a", "b.1", "c.0.x", 1, 2, 5, "7"]), max_size=5, unique=True),
).filter(lambda layout: layout is not None)


def refused(text, workers=None):
    with pytest.raises(UsageError) as caught:
        Layout.parse(text, workers)
    return str(caught.value)


@given(layouts)
def test_text_and_data_say_all(layout):
    assert Layout.parse(str(layout)) == layout
    assert Layout(**json.loads(json.dumps(layout.as_dict()))) == layout


@given(layouts)
def test_no_shorter_text_parses_to_it(layout):
    items = str(layout).split(",")
    for i in range(len(items)):
        rest = ",".join(items[:i] + items[i + 1 :])
        try:
            assert not rest or Layout.parse(rest) != layout
        except UsageError:
            pass


@given(layouts)
def test_the_mesh(layout):
    ranks = range(layout.workers)
    assert [layout.rank_of(*layout.coordinates(rank)) for rank in ranks] == list(ranks)
    for rank in ranks:
        here = layout.coordinates(rank)
        assert rank == (here.stage_rank * layout.dp + here.replica) * layout.tp + here.shard
        for i, dimension in enumerate(DIMENSIONS):
            expected = [other for other in ranks if _same_but(i, here, layout.coordinates(other))]
            assert list(layout.peers(rank, dimension)) == expected
    for dimension in DIMENSIONS:
        groups = list(layout.groups(dimension))
        assert sorted(rank for group in groups for rank in group) == list(ranks)
        assert all(group == layout.peers(rank, dimension) for group in groups for rank in group)


def _same_but(index, here, there):
    return all(i == index or a == b for i, (a, b) in enumerate(zip(here, there, strict=True)))


@pytest.mark.parametrize("rank", [-1, 8])
def test_ranks_that_there_are_not(rank):
    with pytest.raises(IndexError):
        Layout(dp=2, pp=2, tp=2).coordinates(rank)
    with pytest.raises(IndexError):
        Layout(dp=2, pp=2, tp=2).rank_of(0, 2, 0)


def test_what_text_means():
    assert Layout.parse("pp=2, tp=2 ,dp=2,schedule=1f1b") == Layout(pp=2, tp=2, dp=2)
    assert Layout.parse("pp=3,cuts=blocks.2/4") == Layout(pp=3, cuts=("blocks.2", 4))
    assert str(Layout()) == "dp=1" and str(Layout(dp=3, shard=1)) == "dp=3,shard=1"
    assert Layout(pp=2, schedule="zb-v").stages == 4 and Layout(pp=2).stages == 2 and Layout(tp=2).stages == 1
    assert Layout(pp=2, schedule="interleaved", virtual=3).stages == 6
    assert [Layout.parse(text).split for text in ("dp=4", "pp=2", "tp=2", "dp=2,shard=1")] == [False, True, True, True]


def test_dp_follows_from_the_workers():
    assert Layout.parse("pp=2,shard=2", workers=6) == Layout(pp=2, dp=3, shard=2)
    assert Layout.parse("tp=2", workers=2) == Layout(tp=2)
    assert complete(Layout(pp=2, dp=4), 4) == Layout(pp=2, dp=2)
    assert "one replica takes 4 (pp x tp). Use --workers 4 or 8" in refused("pp=2,tp=2", 5)
    assert "Use --workers 3." in refused("tp=3", 2)
    assert "has 4 workers and 8 were asked for" in refused("pp=2,dp=2", 8)
    assert "--workers must be at least 1" in refused("pp=2", 0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the layout is empty"),
        ("xp=2", "there is no 'xp'. A layout has dp, pp, tp, shard, virtual, schedule, cuts"),
        ("pp", "pp has no value. Write pp=VALUE"),
        ("pp=", "pp has no value"),
        ("pp=2,pp=3", "pp is given twice"),
        ("pp=two", "pp is a number; 'two' is none"),
        ("dp=0", "dp=0: must be at least 1"),
        ("tp=-1", "tp=-1: must be at least 1"),
        ("pp=0", "pp=0: must be at least 1"),
        ("dp=2,shard=4", "ZeRO has stages 0 (off), 1, 2 and 3"),
        ("shard=2", "Set dp to 2 or more"),
        ("pp=2,schedule=gpip", "Schedules: vanilla, gpipe, 1f1b, interleaved, zb-h1, zb-v"),
        ("virtual=2", "virtual belongs to a pipeline, and pp is 1"),
        ("schedule=gpipe", "schedule belongs to a pipeline"),
        ("cuts=a", "cuts belongs to a pipeline"),
        ("pp=2,virtual=2", "gives every rank 1 stage(s)"),
        ("pp=2,schedule=zb-v,virtual=3", "gives every rank 2 stage(s)"),
        ("pp=2,schedule=interleaved,virtual=1", "virtual is 2 or more"),
        ("pp=2,virtual=0", "virtual=0: must be at least 1"),
        ("pp=3,cuts=a", "into 2 stages, and there are 3"),
        ("pp=3,cuts=a/a", "begins after the one before"),
        ("pp=3,cuts=4/2", "begins after the one before"),
        ("pp=2,cuts=0", "unit 1 or later"),
        ("pp=3,cuts=a/", "'' is neither the name nor the index"),
    ],
)
def test_nonsense_is_refused_in_words(text, words):
    assert words in refused(text)


@pytest.mark.parametrize("values", [{"dp": 2.0}, {"pp": "2"}, {"tp": True}, {"pp": 2, "cuts": (1.5,)}])
def test_values_of_another_type(values):
    with pytest.raises(UsageError, match=r"is a number|neither the name"):
        Layout(**values)


def test_schedules_are_those_of_the_pipelines():
    assert {name: schedule.virtual for name, schedule in SCHEDULES.items()} == STAGES_PER_RANK
    assert {name for name, schedule in SCHEDULES.items() if schedule.splits_backward} == set(ZERO_BUBBLE)


@given(layouts, st.integers(1, 6))
def test_every_layout_has_a_table(layout, micro_batches):
    if layout.pp > 1:
        table = make_table(layout.schedule, layout.pp, micro_batches, layout.virtual)
        assert (table.stages, table.world) == (layout.stages, layout.pp)
