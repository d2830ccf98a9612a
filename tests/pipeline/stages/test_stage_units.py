"""Which modules are units, and what a recording says of them."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from stage_chain import recorded
from stage_models import ConvNet, TiedGPT, build, ids, transformer
from torch import nn

from manyhands.pipeline.stages import find_units, record


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))
        self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))


class NoList(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = Small(), Small(), nn.Linear(4, 2)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))


def test_members_of_lists_are_units_and_not_opened():
    class Trunk(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.ModuleDict({"embed": nn.Embedding(4, 4), "h": nn.ModuleList(Block() for _ in range(2))})
            self.drop, self.head = nn.Dropout(), nn.Linear(4, 4)

    assert find_units(Trunk()) == ("inner.embed", "inner.h.0", "inner.h.1", "head")


def test_lists_of_lists_are_opened():
    layers = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), nn.Sequential(Block(), Block()), nn.Linear(4, 2)
    )
    assert find_units(layers) == ("0.0", "1.0", "1.1", "2")


def test_without_lists_the_roots_children_are_units():
    assert find_units(NoList()) == ("first", "second", "head")


def test_units_are_in_the_order_of_calls():
    recording = recorded(transformer("T5ForConditionalGeneration"), {"input_ids": ids(), "decoder_input_ids": ids(4)})
    names = [unit.name for unit in recording.units]
    assert names.index("encoder.block.1") < names.index("decoder.embed_tokens") < names.index("decoder.block.0")
    assert names[-1] == "lm_head"


def test_every_parameter_and_buffer_has_a_place():
    for model, x in ((build(TiedGPT), ids()), (build(ConvNet), torch.randn(2, 3, 8, 8))):
        recording = recorded(model, x)
        assert {n for unit in recording.units for n in unit.parameters} == {n for n, _ in model.named_parameters()}
        assert {n for unit in recording.units for n in unit.buffers} == {n for n, _ in model.named_buffers()}


def test_recording_leaves_no_trace():
    class Drawing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.linear = nn.BatchNorm1d(4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            random.random(), np.random.rand(), torch.rand(1)
            return self.linear(self.norm(x))

    model = build(Drawing)
    state = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())
    buffers = {name: (id(b), b.clone()) for name, b in model.named_buffers()}
    with torch.no_grad():
        recording = record(model, lambda: model(torch.ones(3, 4)))
    assert recording.crossing(1)[0].requires_grad
    assert torch.equal(state[0], torch.get_rng_state()) and state[1] == random.getstate()
    assert state[2] == np.random.get_state()[1].tolist()
    assert all(id(b) == buffers[n][0] and torch.equal(b, buffers[n][1]) for n, b in model.named_buffers())
    assert all(p.grad is None for p in model.parameters()) and type(model) is Drawing


def test_a_recording_counts_bytes():
    recording = recorded(build(ConvNet), torch.randn(2, 3, 8, 8))
    sizes = [recording.crossing_bytes(k) for k in range(len(recording.units))]
    assert sizes[0] == 0 and sizes[1] == 2 * 4 * 8 * 8 * 4
    assert recording.crossing(0) == recording.crossing(len(recording.units)) == ()


@pytest.mark.parametrize("shape", [(2, 8), (3, 5)])
def test_the_recording_belongs_to_a_shape(shape):
    assert recorded(build(TiedGPT), torch.zeros(shape, dtype=torch.long)).inputs == ((shape, torch.int64),)
