"""What a unit costs, measured: bytes are exact, seconds are there where there is work."""

from __future__ import annotations

import copy

import torch
from stage_chain import recorded
from stage_models import WIDTH, WORDS, Residual, TiedGPT, build, ids, of_logits
from torch import nn

from manyhands.pipeline.stages import measure


def test_costs_of_a_gpt():
    model, x = build(TiedGPT), ids()
    before = copy.deepcopy(model.state_dict())
    recording = recorded(model, x)
    state = torch.get_rng_state()
    costs = measure(model, recording, lambda: model(x), of_logits, repetitions=1)
    assert [cost.name for cost in costs] == [unit.name for unit in recording.units]
    assert costs[0].input == 0 and costs[0].weight > 0  # ids have no gradient
    assert all(cost.forward > 0 and cost.seconds > cost.forward for cost in costs)
    assert [c.crossing_bytes for c in costs] == [0] + [2 * 8 * WIDTH * 4] * 4
    assert costs[0].parameter_bytes == 4 * (WORDS * WIDTH + 8 * WIDTH + 1)
    assert costs[-1].parameter_bytes == 4 * (WORDS * WIDTH + 2 * WIDTH)  # the tied head counts where it is used, too
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters()) and torch.equal(state, torch.get_rng_state())


def test_activations_are_counted_once():
    model, x = build(lambda: nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4), nn.Tanh())), torch.randn(16, 4)
    costs = measure(model, recorded(model, x), lambda: model(x))
    # the first unit holds its input and tanh's result, which the second one takes; the second only its own tanh's
    assert [cost.activation_bytes for cost in costs] == [16 * 4 * 4 + 16 * 8 * 4, 16 * 4 * 4]


def test_without_gradients_at_the_front():
    model, x = build(Residual), ids()
    model.embed.requires_grad_(False)
    costs = measure(model, recorded(model, x), lambda: model(x), of_logits)
    assert costs[0].input == costs[0].weight == 0 < costs[1].weight
