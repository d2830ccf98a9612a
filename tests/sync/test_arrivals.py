"""Waiting for weights module by module: nothing is used before it was waited for, whatever way a model takes."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from manyhands.sync.server.arrivals import Arrivals


class Odd(nn.Module):
    """Uses parameters of its own, of a child that is never called, and tied ones."""

    def __init__(self):
        super().__init__()
        self.first, self.never, self.again = nn.Linear(3, 3), nn.Linear(3, 3), nn.LSTM(3, 3)
        self.body = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
        self.body[2].weight = self.first.weight
        self.scale = nn.Parameter(torch.ones(3))
        self.short = False

    def forward(self, x):
        x = self.first(x)
        x = x if self.short else self.body(x)
        return self.again(F.linear(x, self.never.weight) * self.scale)[0]


class Watch(torch.overrides.TorchFunctionMode):
    """Every parameter that is used must have been asked for."""

    def __init__(self, here: set):
        super().__init__()
        self.here = here

    def __torch_function__(self, func, types, args=(), kwargs=None):
        for leaf in torch.utils._pytree.tree_leaves((args, kwargs)):
            assert not isinstance(leaf, nn.Parameter) or leaf in self.here, "used before it was there"
        return func(*args, **(kwargs or {}))


@pytest.fixture
def waited():
    model = Odd()
    params = list(model.parameters())
    here, log = set(params), []

    def take(numbers):
        here.update(params[n] for n in numbers)
        log.append(len(numbers))

    def take_all():
        here.update(params)
        log.append("all")

    arrivals = Arrivals(model, params, take, take_all)

    def step():
        here.clear()
        log.clear()
        arrivals.expect()
        with Watch(here):
            out = model(torch.ones(2, 3))
            out.sum().backward()
        return list(log)

    return model, arrivals, step


def test_the_first_pass_waits_for_all_and_later_ones_as_they_go(waited):
    model, _, step = waited
    assert step() == ["all"]
    later = step()
    assert later[0] == 2  # the root's own: its scale, and the weight of the child that is never called
    assert later[-1] == "all"  # whatever has not been waited for by the end
    assert "all" not in later[:-1]
    assert step() == later


def test_another_way_through_the_model_waits_for_all(waited):
    model, _, step = waited
    step()
    model.short = True
    assert step() == [2, 2, "all"]  # the LSTM comes where the body was expected
    model.short = False
    assert "all" not in step()[:-1]


def test_a_pass_that_is_not_for_training_is_not_watched(waited):
    model, _, step = waited
    model.eval()
    assert step() == ["all"]
    assert step() == ["all"]
    model.train()
    step()
    assert step()[0] == 2


def test_closed_it_leaves_the_model_alone(waited):
    model, arrivals, step = waited
    step()
    arrivals.close()
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
