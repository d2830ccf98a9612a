"""Any bit that is different is seen, and who has it is named where most have another."""

import json

import pytest
import torch
from torch import nn

from manyhands.training.steps.alike import Alike, DeviationError, bits, odd

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.complex64)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_any_bit_counts(dtype):
    tensor = torch.randn(3, 5).to(dtype)
    before = bits([tensor])
    raw = (torch.view_as_real(tensor) if dtype.is_complex else tensor).view(torch.uint8).reshape(-1)
    for byte in (0, raw.numel() - 1):
        for bit in [0] if dtype is torch.bool else range(8):
            raw[byte] ^= 1 << bit
            assert bits([tensor]) != before
            raw[byte] ^= 1 << bit
    assert bits([tensor]) == before


def test_whatever_lies_in_memory_in_another_order_is_the_same():
    tensor = torch.randn(4, 6)
    assert bits([tensor.t().contiguous().t(), torch.tensor(2.0), torch.empty(0)]) == bits(
        [tensor, torch.tensor(2.0), torch.empty(0)]
    )


def test_most_are_right():
    assert odd("aab") == [2] and odd("baaa") == [0] and odd("abcaa") == [1, 2]
    assert odd("ab") == odd("abc") == odd("aabb") == [], "nobody can tell"


class Learner:
    """As much of one as is looked at."""

    def __init__(self):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
        self.optimizer = torch.optim.Adam(self.model.parameters())
        self.step = 0

    def train(self):
        torch.manual_seed(self.step)
        self.model(torch.randn(4, 3)).square().sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1


def step(learners, alikes, took=1.0):
    looks = [alike.look(took) for alike in alikes]
    texts = [json.dumps(dict(zip(*alike._state(), strict=True))).encode() for alike in alikes]
    for alike in alikes:
        alike.judge(looks, lambda data: texts)
    for learner in learners:
        learner.train()
    return "state" in looks[0]


@pytest.mark.parametrize("what", ["0.weight", "1.running_var", "the optimizer's exp_avg_sq of 0.bias"])
@pytest.mark.parametrize(("count", "ranks"), [(2, ()), (3, (1,))])
def test_what_deviates_is_named_with_when(what, count, ranks):
    learners = [Learner() for _ in range(count)]
    alikes = [Alike(learner) for learner in learners]
    for _ in range(3):
        step(learners, alikes)
    for alike in alikes:
        alike.soon()
    names = dict(learners[1].model.named_parameters()) | dict(learners[1].model.named_buffers())
    bad = names.get(what, learners[1].optimizer.state[names["0.bias"]]["exp_avg_sq"])
    with torch.no_grad():
        bad.view(torch.int32).reshape(-1)[0] ^= 1 << 20
    with pytest.raises(DeviationError) as caught:
        for _ in range(3):
            step(learners, alikes)
    assert caught.value.ranks == ranks and 0 <= caught.value.since <= 3
    assert what in str(caught.value) and ("worker 1 holds other values of" if ranks else "different values") in str(
        caught.value
    )


def test_how_often_is_a_matter_of_cost():
    learners = [Learner()]
    alikes = [Alike(learners[0])]
    looked = [step(learners, alikes, took=1e9) for _ in range(4)]
    assert looked == [True] * 4, "next to a long step it costs nothing"
    looked = [step(learners, alikes, took=1e-6) for _ in range(50)]
    assert sum(looked) <= 2
    alikes[0].soon()
    step(learners, alikes, took=1e-6)
    assert step(learners, alikes, took=1e-6), "in the step after a state was left for others"
