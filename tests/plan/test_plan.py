"""Plans that a job or a machine cannot carry are refused, with a remedy that works."""

import json
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyhands.collective.algorithms import ALGORITHMS, ALIASES
from manyhands.errors import UsageError
from manyhands.plan import Collective, Layout, Plan


@pytest.mark.parametrize("name", ["workers", "threads", "workers_per_device"])
@pytest.mark.parametrize("value", [0, -3])
def test_counts_below_one(name, value):
    with pytest.raises(UsageError, match=f"--{name.replace('_', '-')} must be at least 1; it is {value}"):
        Plan(**{name: value})


def test_a_plan_is_plain_data():
    plan = Plan(workers=3, device="cpu", threads=2)
    assert Plan(**plan.as_dict()) == plan
    values = {"workers": 3, "device": "cpu", "threads": 2, "workers_per_device": 1, "collective": "auto"}
    texts = {"slow": "", "hosts": "", "server_hosts": "", "sync": "allreduce"}
    assert plan.as_dict() == {**values, **texts, "layout": Layout(dp=3).as_dict()}
    assert Plan(**values) == plan  # as a run of an older version kept it


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
    smaller = plan.resized(workers)
    assert workers < plan.workers
    second = refusal(smaller, micro_batches, cuda_devices)
    assert second is None or "places" in second
    if "--workers-per-device" in text:
        sharing = int(text.split("--workers-per-device ")[1].rstrip("."))
        assert refusal(replace(plan, workers_per_device=sharing), micro_batches, cuda_devices) is None


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


def test_workers_and_layout_follow_from_each_other():
    assert Plan().layout == Layout() and Plan().workers == 1
    assert Plan(workers=3).layout == Layout(dp=3)
    assert Plan(layout=Layout(pp=2, dp=2)).workers == 4
    assert Plan(layout="pp=2,tp=2", workers=4).layout == Layout(pp=2, tp=2)
    assert Plan(layout="pp=2", workers=4).layout == Layout(pp=2, dp=2)
    with pytest.raises(UsageError, match=r"layout dp=2,pp=2 has 4 workers, and --workers is 3"):
        Plan(layout=Layout(pp=2, dp=2), workers=3)


@pytest.mark.parametrize("text", ["dp=2,pp=3,schedule=gpipe,cuts=a.1/4", "dp=2,shard=3", "tp=4"])
def test_a_plan_survives_json(text):
    plan = Plan(layout=text)
    assert Plan(**json.loads(json.dumps(plan.as_dict()))) == plan


def test_resized():
    plan = Plan(layout="pp=2,dp=2", device="cpu")
    assert plan.resized(6) == Plan(layout="pp=2,dp=3", device="cpu")
    assert plan.resized(layout="tp=3") == Plan(layout="tp=3", device="cpu")
    assert plan.resized(4, "tp=2").layout == Layout(tp=2, dp=2)
    assert plan.resized() == plan
    with pytest.raises(UsageError, match=r"5 workers cannot be laid out as dp=2,pp=2: .*--workers 4 or 6"):
        plan.resized(5)
    with pytest.raises(UsageError, match=r"has 2 workers, and --workers is 3"):
        plan.resized(3, Layout(tp=2))


def test_merged():
    kept = Plan(layout="pp=2,dp=2", threads=2).as_dict()
    assert Plan.merged(kept, {}) == Plan(layout="pp=2,dp=2", threads=2)
    assert Plan.merged(kept, {"workers": 2, "threads": 1}) == Plan(layout="pp=2")
    assert Plan.merged(kept, {"layout": "tp=2"}) == Plan(layout="tp=2", threads=2)
    assert Plan.merged({}, {"layout": "pp=2", "workers": 4}) == Plan(layout="pp=2,dp=2")
    assert Plan.merged({"workers": 4, "threads": 2}, {}) == Plan(workers=4, threads=2)


def test_replicas_that_cannot_share_the_micro_batches():
    text = refusal(Plan(layout="pp=2,dp=9"), 8, 0)
    assert "9 replicas cannot share 8 micro-batches" in text and "--workers 16" in text
    assert refusal(Plan(layout="pp=3,tp=3"), 8, 0) is None
