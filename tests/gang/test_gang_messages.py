"""Every order and every report survives the wire."""

import functools
import json
import types
import typing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyhands.gang import ORDERS, REPORTS, SPEC, Facts, Kind, Order, Report, Spec, read_rows, write_rows
from manyhands.gang.reports import StepRow, Steps
from manyhands.plan import Plan
from manyhands.wire import MessageError, encode

PLANS = [
    Plan(),
    Plan(workers=3, hosts="here=2,a=1", slow="1:3"),
    Plan(layout="pp=2,dp=2,schedule=zb-h1,cuts=3"),
    Plan(layout="pp=2,cuts=layers.3"),
    Plan(workers=2, sync="server,servers=2,staleness=any"),
    Plan(workers=2, sync="local,every=4,outer=nesterov,wire=int8"),
]
SIMPLE = {
    Plan: st.sampled_from(PLANS),
    Path: st.text("ab/", min_size=1).map(Path),
    float: st.floats(allow_nan=False),
    object: st.none() | st.integers() | st.dictionaries(st.text(), st.integers(), max_size=3),
    bool: st.booleans(),
    int: st.integers(),
    str: st.text(),
    type(None): st.none(),
}


@functools.cache
def some(kind) -> st.SearchStrategy:
    """Values of a type that a message may hold. (What `st.from_type` gives can only be changed for all tests.)"""
    if kind in SIMPLE:
        return SIMPLE[kind]
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return st.one_of([some(each) for each in inner])
    if origin is typing.Literal:
        return st.sampled_from(inner)
    if origin is dict:
        return st.dictionaries(some(inner[0]), some(inner[1]), max_size=3)
    if origin is tuple and inner[1:] == (...,):
        return st.lists(some(inner[0]), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*(some(each) for each in inner))
    return st.builds(kind, **{name: some(hint) for name, hint in typing.get_type_hints(kind).items()})


def there_and_back(codec, message):
    return codec.decode(json.loads(json.dumps(encode(message))))


@pytest.mark.parametrize("kind", typing.get_args(Order) + typing.get_args(Report) + (Spec,), ids=lambda k: k.__name__)
@settings(max_examples=20)
@given(data=st.data())
def test_messages_survive_the_wire(kind, data):
    message = data.draw(some(kind))
    codec = ORDERS if kind in typing.get_args(Order) else REPORTS if kind in typing.get_args(Report) else SPEC
    assert there_and_back(codec, message) == message


def test_a_report_is_no_order():
    with pytest.raises(MessageError, match="no message 'steps' here"):
        ORDERS.decode(encode(Steps(rows=())))


@given(st.lists(some(StepRow), max_size=3))
def test_rows_that_go_along_with_a_state_leave_their_spans_behind(rows):
    assert read_rows(write_rows(rows)) == [row._replace(spans=()) for row in rows]


@pytest.mark.parametrize("text", ["[[1]]", "{}", '[["1",0,0,0,0.5,null,0.1,1,2,[],[]]]'])
def test_rows_that_are_none_are_refused(text):
    with pytest.raises(MessageError):
        read_rows(text)


@given(some(Facts))
def test_facts_survive_and_say_what_must_be_alike(facts):
    assert Facts.read(json.loads(json.dumps(facts.__dict__))) == facts
    assert facts.alike["the job file's sha256"] == facts.job_sha256
    assert facts.alike["torch's version"] == facts.versions.get("torch", "none")


@pytest.mark.parametrize(
    ("plan", "kind", "keeper"),
    list(
        zip(PLANS, [Kind.REPLICAS] * 2 + [Kind.PARTS] * 2 + [Kind.LOOSE, Kind.PARTS], [0, 0, 0, 0, 2, 0], strict=True)
    ),
)
def test_what_kind_of_gang_a_plan_makes(plan, kind, keeper):
    found = Kind.of(plan)
    assert found is kind
    assert found.whole is (kind is Kind.REPLICAS) and found.waits is (kind is not Kind.LOOSE)
    assert found.keeper(plan) == keeper
