"""Every combination is right, right under settings that are named, or refused with something that works."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_layout import layouts

from manyhands.errors import UsageError
from manyhands.plan import (
    RULES,
    Effect,
    Kind,
    Layout,
    Traits,
    judge,
    matrix,
    matrix_markdown,
    rules_markdown,
)
from manyhands.plan.layout import STAGES_PER_RANK

PAGE = Path(__file__).parents[2] / "docs" / "layouts.md"

all_traits = st.builds(
    Traits,
    micro_batches=st.integers(1, 12),
    units=st.none() | st.integers(1, 9),
    uncut=st.sampled_from(["", "", "", "its forward loops over tokens."]),
    tied=st.integers(0, 2),
    frozen=st.sampled_from(["none", "front", "elsewhere"]),
    heads=st.none() | st.integers(1, 8),
    kv_heads=st.none() | st.integers(1, 4),
    dropout=st.booleans(),
    shapes=st.sampled_from(["same", "same", "vary"]),
    coupling=st.sampled_from(["element", "element", "parameter", "model"]),
    clip=st.booleans(),
    compile=st.booleans(),
    precision=st.sampled_from(["fp32", "bf16"]),
    reproducible=st.booleans(),
)


def trains_wrongly(layout: Layout, traits: Traits) -> bool:
    """What must be refused, as the issue lists it."""
    pipelined, zero_bubble = layout.pp > 1, layout.pp > 1 and layout.schedule.startswith("zb")
    per_rank = {"interleaved": 2, "zb-v": 2}.get(layout.schedule, 1) if layout.virtual is None else layout.virtual
    if pipelined and (traits.uncut or traits.shapes == "vary"):
        return True
    if traits.units is not None and (layout.pp * per_rank if pipelined else 1) > traits.units:
        return True
    if zero_bubble and (traits.frozen == "front" or traits.compile):
        return True
    if layout.dp > traits.micro_batches or (layout.shard and traits.micro_batches % layout.dp):
        return True
    if layout.tp > 1 and traits.compile:
        return True
    parts = {"element": False, "parameter": layout.tp > 1 or layout.shard > 0, "model": layout.split}
    return parts[traits.coupling]


@given(layouts, all_traits)
def test_wrong_ones_are_refused_and_no_others(layout, traits):
    verdict = judge(layout, traits)
    assert verdict.legal == (not trains_wrongly(layout, traits))
    assert bool(verdict.refusals) == (not verdict.legal) == (verdict.nearest is not None)
    assert (verdict.kind is Kind.CONDITIONAL) == bool(verdict.settings)


@given(layouts, all_traits)
def test_what_is_proposed_works(layout, traits):
    verdict = judge(layout, traits)
    if verdict.legal:
        verdict.check()
        return
    with pytest.raises(UsageError) as caught:
        verdict.check()
    text = str(caught.value)
    assert all(finding.because in text for finding in verdict.refusals)
    proposed = Layout.parse(text.rsplit("--layout ", 1)[1])
    assert proposed == verdict.nearest and judge(proposed, traits).legal
    assert proposed.workers <= layout.workers


@settings(max_examples=20)
@given(layouts, all_traits)
def test_the_shape_stays_where_schedule_or_sharding_are_at_fault(layout, traits):
    verdict = judge(layout, traits)
    if verdict.legal:
        return
    shape = {"dp": layout.dp, "pp": layout.pp, "tp": layout.tp}
    schedules = STAGES_PER_RANK if layout.pp > 1 else ["1f1b"]
    others = [Layout(**shape, schedule=schedule, shard=shard) for schedule in schedules for shard in {0, layout.shard}]
    if any(judge(other, traits).legal for other in others):
        assert {name: getattr(verdict.nearest, name) for name in shape} == shape


@given(layouts, all_traits)
def test_same_bits_are_promised_where_no_sum_is_split(layout, traits):
    verdict = judge(layout, traits)
    if not verdict.legal:
        return
    split = layout.tp > 1 or ((layout.pp > 1 or layout.shard > 0) and traits.compile)
    if not traits.reproducible:
        assert verdict.equality == "in no fixed order"
    else:
        assert (verdict.equality == "same bits") == (not split)
    assert verdict.equality != "within 1e-5" or traits.precision == "fp32"


PLAIN = {"micro_batches": 8, "units": 6}


@pytest.mark.parametrize(
    ("layout", "traits", "words", "nearest"),
    [
        ("pp=2,schedule=zb-v", {"frozen": "front"}, "never would", "pp=2"),
        ("pp=2,dp=2,schedule=zb-h1", {"compile": True}, "one piece", "pp=2,dp=2"),
        ("pp=8", {}, "8 stages cannot be made of 6 unit(s)", "pp=4,dp=2"),
        ("pp=4,schedule=interleaved,virtual=3", {}, "12 stages cannot", "pp=4"),
        ("dp=16", {}, "16 replicas cannot share 8 micro-batches", "dp=8,pp=2"),
        ("dp=3,shard=2", {}, "3 do not divide 8", "dp=3"),
        ("pp=2,tp=2", {"coupling": "parameter"}, "a parameter of its own", "pp=2,dp=2"),
        ("pp=4", {"coupling": "model"}, "no worker would hold them all", "dp=4"),
        ("pp=4", {"uncut": "its layers call each other."}, "its layers call each other.", "dp=4"),
        ("pp=2", {"shapes": "vary"}, "Pad sequences", "dp=2"),
        ("tp=2", {"compile": True}, "a compiled model does not run so", "dp=2"),
    ],
)
def test_reasons_and_nearest(layout, traits, words, nearest):
    verdict = judge(Layout.parse(layout), Traits(**{**PLAIN, **traits}))
    assert words in str(verdict) and verdict.nearest == Layout.parse(nearest)


@pytest.mark.parametrize(
    ("layout", "traits", "setting"),
    [
        ("pp=2,dp=2,shard=3,schedule=zb-h1", {}, "reshard_after_forward=False"),
        ("pp=2,dp=2,schedule=zb-v", {}, "exchange after the step"),
        ("pp=2", {"tied": 1}, "tied weights have one owner"),
        ("tp=2", {"tied": 1}, "tied again after splitting"),
        ("dp=2,shard=3", {"tied": 1}, "tied weights in one group"),
        ("pp=2", {"clip": True}, "norm over the mesh"),
        ("tp=2", {"dropout": True}, "masks of the whole tensor"),
    ],
)
def test_settings(layout, traits, setting):
    verdict = judge(Layout.parse(layout), Traits(**{**PLAIN, **traits}))
    assert verdict.kind is Kind.CONDITIONAL and verdict.sets(setting) and setting in str(verdict)
    assert not judge(Layout(dp=2), Traits(**{**PLAIN, **traits})).settings


@pytest.mark.parametrize(
    ("layout", "traits", "words"),
    [
        ("tp=2", {"heads": 5}, "5 attention heads are dealt to 2 shards unevenly"),
        ("tp=4", {"heads": 8, "kv_heads": 2}, "2 heads of keys and values"),
        ("tp=2", {"precision": "bf16"}, "rounded to bf16"),
        ("dp=3", {}, "share 8 micro-batches unevenly"),
        ("dp=4,pp=3", {}, "it never fills"),
    ],
)
def test_notes(layout, traits, words):
    verdict = judge(Layout.parse(layout), Traits(**{**PLAIN, **traits}))
    assert verdict.kind is Kind.EXACT and words in str(verdict)


def test_every_rule_applies_somewhere():
    cases = [({}, "pp=8"), ({"uncut": "x"}, "pp=2"), ({}, "dp=9"), ({}, "dp=3,shard=1")]
    cases += [({"frozen": "front", "compile": True}, "pp=2,schedule=zb-v"), ({"compile": True}, "tp=2,pp=2")]
    cases += [({"shapes": "vary"}, "pp=2"), ({"coupling": "parameter"}, "tp=2"), ({"coupling": "model"}, "tp=2")]
    cases += [({"tied": 1, "clip": True, "dropout": True, "precision": "bf16"}, "pp=2,dp=2,tp=2,shard=3,schedule=zb-v")]
    cases += [({}, "pp=2,dp=3,schedule=zb-h1"), ({"heads": 5}, "tp=2"), ({"heads": 4, "kv_heads": 1}, "tp=2")]
    cases += [({}, "pp=4,dp=4"), ({"hooked": ("a.weight",)}, "tp=2")]
    unused = {rule.name for rule in RULES}
    for traits, text in cases:
        layout, facts = Layout.parse(text), Traits(**{**PLAIN, **traits})
        unused -= {rule.name for rule in RULES if rule.when(layout, facts)}
    assert not unused
    assert len({rule.name for rule in RULES}) == len(RULES)


def test_the_matrix_has_every_combination():
    rows = matrix()
    assert len({row.layout for row in rows}) == len(rows) == (1 + len(STAGES_PER_RANK)) * 10
    assert all(row.verdict == judge(row.layout, Traits(micro_batches=8, units=8)) for row in rows)


def test_the_page_shows_the_matrix_and_the_rules():
    text = PAGE.read_text()
    assert matrix_markdown() in text and rules_markdown() in text
    assert sum(rule.effect is Effect.REFUSE for rule in RULES) == text.count("| refused |")
