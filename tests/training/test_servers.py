"""Synchronous servers: the bits of one process's training, whatever is on the server."""

import copy

import pytest
import torch
from gangs import same, trained
from test_local_steps import job, model, weights
from torch import nn

from manyhands import Plan


class Mixed(nn.Module):
    """Large and small tensors, other dtypes, one unused, one frozen, one used once in a while, tied ones."""

    def __init__(self):
        super().__init__()
        self.wide = nn.Linear(300, 40)
        self.norm = nn.BatchNorm1d(40)
        self.narrow = nn.Linear(40, 40).bfloat16()
        self.tied = nn.Linear(40, 40)
        self.again = nn.Linear(40, 40)
        self.again.weight = self.tied.weight
        self.last = nn.Linear(40, 1)
        self.never = nn.Parameter(torch.ones(3))
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        hidden = self.norm(self.wide(x))
        hidden = self.narrow(hidden.bfloat16()).float() + self.again(self.tied(hidden).tanh())
        return (self.last(hidden) * self.scale * self.frozen).flatten()


def groups(params):
    params = list(params)
    decayed = [p for p in params if p.dim() > 1]
    others = [p for p in params if p.dim() <= 1]
    return torch.optim.AdamW([{"params": decayed, "weight_decay": 0.1}, {"params": others, "lr": 0.003}], lr=0.01)


MOMENTUM = {"optimizer": lambda params: torch.optim.SGD(params, lr=0.02, momentum=0.9, nesterov=True)}
JOBS = {
    "mixed": job(model=Mixed, optimizer=groups, clip_grad_norm=0.5),
    "unclipped": job(model=Mixed, optimizer=groups),
    "scheduled": job(
        model=model, **MOMENTUM, scheduler=lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.02, total_steps=13)
    ),
    "whole": job(model=Mixed, optimizer=torch.optim.Adafactor, clip_grad_norm=1.0),
    "unordered": job(model=model, **MOMENTUM, reproducible=False),
}


@pytest.fixture(scope="module")
def alone():
    return {name: trained(each, Plan())[0] for name, each in JOBS.items()}


@pytest.mark.parametrize(("workers", "servers"), [(1, 1), (2, 3), (3, 1), (4, 2)])
@pytest.mark.parametrize("name", ["mixed", "unclipped", "scheduled", "whole"])
def test_it_is_the_training_of_one_process(name, workers, servers, alone):
    results = trained(JOBS[name], Plan(workers=workers, sync=f"server,servers={servers}"))
    (expected, steps), (state, ours) = alone[name], results[0]
    assert same(state["model"], expected["model"])
    assert same(state["optimizer"], expected["optimizer"])
    assert same(state["scheduler"], expected["scheduler"])
    assert [step[:-1] for step in ours] == [step[:-1] for step in steps]
    for other, figures in results[:workers]:
        assert same(other["model"], expected["model"])
        assert figures == ours


def test_without_the_guarantee_it_is_close(alone):
    result = trained(JOBS["unordered"], Plan(workers=3, sync="server,servers=2"))[0]
    torch.testing.assert_close(weights(result), weights(alone["unordered"]), rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize(("before", "after"), [("server,servers=2", "allreduce"), ("allreduce", "server,servers=3")])
def test_a_state_goes_on_under_another_policy(before, after, alone):
    half = trained(JOBS["mixed"], Plan(workers=2, sync=before), steps=5, ask=lambda t: copy.deepcopy(t.capture()))
    state, _ = trained(JOBS["mixed"], Plan(workers=3, sync=after), half[0][0])[0]
    assert same(state["model"], alone["mixed"][0]["model"])
    assert same(state["optimizer"], alone["mixed"][0]["optimizer"])
