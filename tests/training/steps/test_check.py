"""A gang shows that it trains what one worker would: what differs is refused, what is right is not."""

import pytest
import split_checks
import torch
from hazards import HAZARDS

from manyhands.errors import UserError
from manyhands.plan import SAME_BITS
from manyhands.training.check import compare
from manyhands.training.steps.unmoved import Unmoved

WAYS = ("dp=2", "pp=2", "pp=2,schedule=zb-h1", "dp=2,shard=1", "dp=2,shard=3", "tp=2")
REFUSED = {
    ("beside", "pp=2"),
    ("hooked", "dp=2,shard=1"),
    ("moving", "dp=2"),
    ("counting", "dp=2"),
    ("two-ways", "pp=2"),
    ("noisy", "pp=2"),
    ("noisy", "dp=2,shard=1"),
    ("noisy", "tp=2"),
    ("adagrad", "dp=2,shard=1"),
    ("adagrad", "tp=2"),
}
"""Some that must be; of all others the training itself shows whether they may be."""


def is_refused(verdict: str) -> bool:
    return "check before the training" in verdict or "is refused" in verdict


@pytest.mark.parametrize("name", HAZARDS)
def test_what_is_not_refused_is_right(gangs, name):
    for way in WAYS:
        verdicts = gangs.gang(2).run(split_checks.checked, name, way)
        if any(map(is_refused, verdicts)):
            continue
        verdict = verdicts[0]
        assert (name, way) not in REFUSED, verdict
        found = gangs.splits([(name, way, 5, None)])[name, way, 5, None]
        if found["equality"] == SAME_BITS:
            assert found["worst"] == {}, f"{name}, {way}: {verdict}"
        else:
            assert found["weights"] < 1e-5, f"{name}, {way}: {verdict}"


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("gpt", "pp=2"),
        ("cnn", "dp=2"),
        ("tied", "dp=2,shard=3"),
        ("bf16", "dp=2,shard=1"),
        ("bf16", "tp=2"),
        ("llama", "tp=2"),
        ("bert", "tp=2"),
        ("sometimes", "pp=2,schedule=zb-h1"),
        ("frozen", "pp=2"),
        ("evaluated", "pp=2"),
        ("draws", "tp=2"),
        ("hesitant", "dp=2"),
        ("hesitant", "tp=2"),
        ("batched", "dp=2"),
    ],
)
def test_what_is_right_is_not_refused(gangs, name, way):
    pytest.importorskip("transformers")
    verdict = gangs.gang(2).run(split_checks.checked, name, way)[0]
    assert "one worker, checked in" in verdict


@pytest.mark.parametrize("policy", ["server", "local,every=2"])
def test_a_policy_is_checked_by_the_replicas_that_it_has(gangs, policy):
    world = 3 if policy == "server" else 2
    verdict = gangs.gang(world).run(split_checks.checked, "chain", "dp=2", policy)[0]
    assert verdict.startswith("the same bits as one worker")
    verdicts = gangs.gang(world).run(split_checks.checked, "moving", "dp=2", policy)
    assert any(map(is_refused, verdicts)), "the others may have lost the one that says so"


def outcome(**changes):
    weight, gradient = torch.tensor([1.0, 2.0, 0.0]), torch.tensor([0.5, -0.25, 0.0])
    found = {"the loss of step 1": 0.5, "the gradient of w": gradient, "w": weight, "count": torch.tensor(3)}
    return found | {"the optimizer's step of w": torch.tensor(2.0)} | changes


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ""),
        ({"the loss of step 1": 0.5 + 2**-53}, "the loss of step 1 differs by 1.1e-16"),
        ({"w": torch.tensor([1.0, 2.0, -0.0])}, "w differs by 0.0e+00"),
        ({"w": torch.tensor([1.0, 2.0])}, "w differs by inf"),
        ({"w": torch.tensor([1.0, 2.0, 0.0], dtype=torch.float64)}, "w differs"),
        ({"count": torch.tensor(4)}, "count differs by 1.0e+00"),
        ({"the optimizer's step of w": torch.tensor(3.0)}, "the optimizer's step of w differs"),
        ({"a buffer": torch.tensor(1.0)}, "a buffer differs"),
        ({"the gradient of w": torch.full((3,), torch.nan)}, "the gradient of w differs by nan"),
    ],
)
def test_bits_are_compared(changes, words):
    found = compare(outcome(), outcome(**changes), SAME_BITS, "fp32")
    assert words in found if words else not found


def test_what_is_not_a_number_is_equal_to_itself():
    nan = {"w": torch.tensor([1.0, torch.nan, 0.0]), "the evaluation's loss": float("nan")}
    assert not compare(outcome(**nan), outcome(**nan), SAME_BITS, "fp32")


def test_of_many_differences_the_first_are_named():
    names = [f"layer{number}" for number in range(9)]
    one, other = ({name: torch.tensor(value) for name in names} for value in (1.0, 2.0))
    assert compare(one, other, SAME_BITS, "fp32") == (
        "layer0 differs by 1.0e+00; so do layer1, layer2, layer3 and 5 more"
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"the loss of step 1": 0.5 + 1e-6}, ""),
        ({"the gradient of w": torch.tensor([0.5, -0.25 + 1e-6, 1e-7])}, ""),
        ({"w": torch.tensor([1.0, 2.0, 1e-3])}, ""),  # AdamW steps as far for a gradient that is only rounding
        ({"w": torch.tensor([1.0, 2.0 + 1e-4, 0.0])}, "w differs by 1.0e-04"),
        ({"the loss of step 1": 0.501}, "the loss of step 1 differs"),
        ({"the gradient of w": torch.tensor([0.5, -0.2, 0.0])}, "the gradient of w differs"),
        ({"the gradient of w": torch.tensor([0.5, torch.nan, 0.0])}, "the gradient of w differs"),
        ({"count": torch.tensor(4)}, "count differs"),
        ({"the optimizer's step of w": torch.tensor(3.0)}, ""),
    ],
)
def test_where_sums_are_added_in_another_order_they_are_nearly_the_same(changes, words):
    found = compare(outcome(), outcome(**changes), "within 1e-5", "fp32")
    assert words in found if words else not found


def test_a_forward_pass_that_moves_a_weight_is_noticed_whenever_it_does():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    unmoved = Unmoved(model)
    unmoved.before()
    model(torch.randn(4, 2))  # moves buffers
    unmoved.after()
    unmoved.before()
    with torch.no_grad():
        model[0].bias += 0.0
    with pytest.raises(UserError, match=r"changes weights \(0\.bias\)"):
        unmoved.after()
