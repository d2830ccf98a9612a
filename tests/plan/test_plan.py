"""Plans that a job or a machine cannot carry are refused, with a remedy that works."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyhands.collective.algorithms import ALGORITHMS, ALIASES
from manyhands.errors import UsageError
from manyhands.plan import Collective, Plan


@pytest.mark.parametrize("name", ["workers", "threads", "workers_per_device"])
@pytest.mark.parametrize("value", [0, -3])
def test_counts_below_one(name, value):
    with pytest.raises(UsageError, match=f"--{name.replace('_', '-')} must be at least 1; it is {value}"):
        Plan(**{name: value})


def test_a_plan_is_plain_data():
    plan = Plan(workers=3, device="cpu", threads=2)
    assert Plan(**plan.as_dict()) == plan
    values = {"workers": 3, "device": "cpu", "threads": 2, "workers_per_device": 1, "collective": "auto"}
    assert plan.as_dict() == values


def test_a_collective_that_is_none_is_refused():
    with pytest.raises(UsageError, match=r"--collective rign: there are auto, direct, ring,"):
        Plan(collective="rign")


def test_collectives_are_those_there_are():
    assert set(get_args(Collective)) <= {"auto", "direct", "packed", *ALGORITHMS, *ALIASES}


def refusal(plan: Plan, micro_batches: int, cuda_devices: int) -> str | None:
    try:
        plan.check(micro_batches, cuda_devices)
    except UsageError as error:
        return str(error)
    return None


plans = st.builds(
    Plan,
    workers=st.integers(1, 20),
    device=st.sampled_from(["auto", "cpu", "cuda"]),
    workers_per_device=st.integers(1, 3),
)


@given(plans, st.integers(1, 16), st.integers(0, 4))
def test_what_is_refused(plan, micro_batches, cuda_devices):
    on_cuda = plan.device != "cpu" and cuda_devices > 0
    impossible = (
        plan.workers > micro_batches
        or (plan.device == "cuda" and cuda_devices == 0)
        or (on_cuda and plan.workers > cuda_devices * plan.workers_per_device)
    )
    assert (refusal(plan, micro_batches, cuda_devices) is not None) == impossible


@given(plans, st.integers(1, 16), st.integers(1, 4))
def test_the_remedy_works(plan, micro_batches, cuda_devices):
    text = refusal(plan, micro_batches, cuda_devices)
    if text is None:
        return
    workers = int(text.split("Use --workers ")[1].split()[0].rstrip(","))
    settings = plan.as_dict()
    smaller = Plan(**{**settings, "workers": workers})
    assert workers < plan.workers
    second = refusal(smaller, micro_batches, cuda_devices)
    assert second is None or "places" in second
    if "--workers-per-device" in text:
        sharing = int(text.split("--workers-per-device ")[1].rstrip("."))
        assert refusal(Plan(**{**settings, "workers_per_device": sharing}), micro_batches, cuda_devices) is None


def test_messages_name_the_numbers():
    text = refusal(Plan(workers=9), 8, 0)
    assert "9 workers cannot share 8 micro-batches" in text and "--workers 8" in text
    assert "--device cuda" in refusal(Plan(device="cuda"), 8, 0) and "Use --device cpu" in refusal(
        Plan(device="cuda"), 8, 0
    )
    text = refusal(Plan(workers=5), 8, 2)
    assert "2 CUDA device(s)" in text and "--workers 2" in text and "--workers-per-device 3" in text


@pytest.mark.parametrize(
    ("device", "cuda_devices", "expected"),
    [("auto", 0, False), ("auto", 1, True), ("cpu", 4, False), ("cuda", 1, True), ("cuda", 0, True)],
)
def test_where_a_plan_runs(device, cuda_devices, expected):
    assert Plan(device=device).uses_cuda(cuda_devices) is expected
