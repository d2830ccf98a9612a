"""The plan's options as they are given."""

from dataclasses import fields

import pytest

from manyhands import UsageError
from manyhands.plan import DeviceOptions, GangOptions, JobOptions, Plan, PlanOptions


def test_the_options_are_the_plans_fields():
    assert {field.name for field in fields(PlanOptions)} == {field.name for field in fields(Plan)}
    for group in (DeviceOptions, GangOptions, JobOptions):
        assert issubclass(PlanOptions, group) or {f.name for f in fields(group)} < {f.name for f in fields(PlanOptions)}


def test_what_was_given_makes_a_plan():
    assert PlanOptions().given() == {}
    given = PlanOptions(workers=4, layout="pp=2", threads=2, collective="ring").given()
    assert given == {"workers": 4, "layout": "pp=2", "threads": 2, "collective": "ring"}
    assert str(Plan(**given).layout) == "dp=2,pp=2"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"workers": 0}, "--workers must be at least 1"),
        ({"layout": "pp=x"}, "pp is a number"),
        ({"layout": "pp=2", "workers": 3}, "--workers 2 or 4"),
        ({"sync": "sometimes"}, "--sync sometimes"),
        ({"hosts": "a,a"}, "a is there twice"),
        ({"server_hosts": "a,"}, "a name is missing"),
        ({"device": "gpu"}, "--device gpu: there are auto, cpu, cuda"),
        ({"threads": 0}, "--threads must be at least 1"),
        ({"workers_per_device": 0}, "--workers-per-device must be at least 1"),
        ({"collective": "bus"}, "--collective bus"),
        ({"slow": "1"}, "write RANK:FACTOR"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_when_it_is_given(values, words):
    with pytest.raises(UsageError, match=words):
        PlanOptions(**values)


def test_what_a_resumed_run_may_complete_is_not_refused():
    """Whether all fit together, the plan that was kept decides."""
    assert GangOptions(server_hosts="a,b").given() == {"server_hosts": "a,b"}
    assert PlanOptions(workers=3, hosts="here=1,a=1").given() == {"workers": 3, "hosts": "here=1,a=1"}
