"""What cannot be cut is refused in words; what goes another way than recorded is noticed; the model is left whole."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
from stage_chain import check, recorded
from stage_models import WIDTH, Residual, build, ids, of_anything, of_logits, transformer
from torch import Tensor, nn

from manyhands.errors import UserError
from manyhands.pipeline.stages import StageModule, record


class Layers(nn.Module):
    """Three layers and a hook for what goes on between them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Keeping() for _ in range(3))
        self.between: Any = lambda x, index: x
        self.finish: Any = lambda model, x: x
        self.order = [0, 1, 2]

    def forward(self, x: Tensor) -> Any:
        for index in self.order:
            x = self.between(self.layers[index](x), index)
        return self.finish(self, x)


class Keeping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.kept: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.kept = self.linear(x)
        return torch.tanh(self.kept)


X = torch.randn(2, 4)


def names(model: nn.Module) -> list[str]:
    return [unit.name for unit in recorded(model, X).units]


def run_last(model: Layers, change: Any) -> str:
    """The error of the last stage of three, if the model changes after it was recorded."""
    recording = recorded(model, X)
    stage = StageModule(model, recording, 2, 3)
    received = [torch.randn(v.shape, requires_grad=v.requires_grad) for v in stage.receives]
    stage(X, received)
    change(model)
    types = [type(module) for module in model.modules()]
    with pytest.raises(UserError) as error:
        stage(X, received)
    assert [type(module) for module in model.modules()] == types
    return str(error.value)


def test_more_stages_than_units():
    model = build(Layers)
    with pytest.raises(UserError, match=r"from unit 3 to 4 .* has 3 units \(layers\.0, layers\.1, layers\.2\)"):
        StageModule(model, recorded(model, X), 3, 4)
    with pytest.raises(UserError, match="9 stages were asked for, and the model can be cut into 3 parts at most"):
        record(model, lambda: model(X), at_least=9)


def test_larger_modules_are_opened_if_more_stages_are_wanted():
    model = build(Residual)
    x = ids()
    assert len(recorded(model, x).units) == 5
    recording = record(model, lambda: model(x), at_least=7)
    assert len(recording.units) >= 7
    check(model, x, of_logits, recording)


def test_code_that_depends_on_an_activation_is_not_cut_off():
    model = build(Layers)
    model.between = lambda x, index: x if x.mean() > 0 else -x
    recording = recorded(model, X)
    assert [unit.name for unit in recording.units] == ["layers.0"]  # a later stage cannot know how the first went on
    assert re.search(r"value of an activation \(__bool__\(\) at .*test_stage_refusals.py:\d+\)", recording.refused[1])
    with pytest.raises(UserError, match="depends on the value of an activation"):
        record(model, lambda: model(X), at_least=3)


def test_values_that_go_from_layer_to_layer_in_secret_forbid_the_cut_between():
    model = build(Layers)
    model.finish = lambda m, x: x + m.layers[1].kept
    recording = recorded(copy.deepcopy(model), X)
    assert [unit.name for unit in recording.units] == ["layers.0", "layers.1"]  # the second unit holds the rest
    assert "reads what layers.1 computed inside" in recording.refused[2]
    check(model, X, of_anything, recording)


def test_layers_dropped_at_random():
    model = build(Layers)
    model.between = lambda x, index: x + 1 if torch.rand(()) > 0.5 else x
    assert names(model) == ["layers.0"]


def test_another_order_of_layers():
    assert re.search(
        "called layers.1, where it called layers.0", run_last(build(Layers), lambda m: setattr(m, "order", [1, 0, 2]))
    )


def test_layers_left_out_or_called_again():
    assert "ended without calling layers.2" in run_last(build(Layers), lambda m: setattr(m, "order", [0, 1]))
    assert "called layers.0, where it called nothing more" in run_last(
        build(Layers), lambda m: setattr(m, "order", [0, 1, 2, 0])
    )


def test_other_operations_between_the_layers():
    error = run_last(build(Layers), lambda m: setattr(m, "between", lambda x, index: x.sin()))
    assert re.search(r"test_stage_refusals.py:\d+: sin\(\) needs the output of layers.0", error)


def test_a_value_that_is_asked_for_only_later():
    error = run_last(build(Layers), lambda m: setattr(m, "between", lambda x, index: x if x.sum() > 0 else -x))
    assert "needs the output of layers.0, which is computed by another stage" in error


def test_another_length():
    model = build(Layers)
    stage = StageModule(model, recorded(model, X), 1, 2)
    with pytest.raises(UserError, match=r"input 1 of the model has shape \[3, 4\] .* had \[2, 4\] .* pad or crop"):
        stage(torch.randn(3, 4), [torch.randn(2, 4)])
    with pytest.raises(UserError, match=r"the output of layers.0 has shape \[5, 4\]"):
        stage(X, [torch.randn(5, 4)])


def test_the_users_own_error_comes_through():
    model = build(Layers)
    stage = StageModule(model, recorded(model, X), 0, 2)
    model.between = lambda x, index: 1 / 0
    with pytest.raises(ZeroDivisionError):
        stage(X)
    model.between = lambda x, index: x
    assert stage(X)[0].shape == (2, 4)
    assert torch.zeros(3).sin().shape == (3,)  # no mode was left behind


def test_outputs_that_hooks_collect_from_the_layers():
    model = transformer("LlamaForCausalLM", output_hidden_states=True)
    inputs = {"input_ids": ids()}
    stage = StageModule(model, recorded(model, inputs), 2, 5)
    with pytest.raises(UserError, match=r"output\['hidden_states'\] of the model is not what it was"):
        stage(inputs, [torch.randn(v.shape) for v in stage.receives])
    model = transformer("MixtralForCausalLM", num_local_experts=2, num_experts_per_tok=1, output_router_logits=True)
    recording = recorded(model, {**inputs, "labels": ids()})
    assert [unit.name for unit in recording.units] == ["model.embed_tokens", "model.layers.0"]


def test_a_layer_that_gives_something_that_cannot_be_sent():
    class Box:
        def __init__(self, x: Tensor) -> None:
            self.x = x

    class Boxing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Any:
            return Box(self.linear(x)), float(x.sum())

    model = build(Layers)
    model.layers[0] = Boxing()
    model.between = lambda x, index: x[0].x if index == 0 else x
    recording = recorded(model, X)
    assert recording.units[0].last == 2 and "reads what layers.0 computed inside" in recording.refused[1]


def test_a_model_that_runs_twice_or_holds_no_modules():
    model = build(Layers)
    with pytest.raises(UserError, match="called 2 times"):
        record(model, lambda: (model(X), model(X)))

    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, WIDTH))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.weight

    with pytest.raises(UserError, match="calls no module that has parameters"):
        record(bare := Bare(), lambda: bare(X))
