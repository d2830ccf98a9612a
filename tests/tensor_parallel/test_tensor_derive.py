"""What is derived from one run of a model, and what is said about it."""

import json

import pytest
import tensor_models
import torch
from tensor_checks import plan_text
from torch import nn

from manyhands.errors import UsageError
from manyhands.tensor_parallel import Style, TensorPlan, derive
from manyhands.tensor_parallel.split import Split


def plan_of(name, degree=2, **options):
    torch.manual_seed(0)
    model, inputs, _ = getattr(tensor_models, name)()
    given = inputs(0)
    run = (lambda: model(**given)) if isinstance(given, dict) else (lambda: model(*given))
    return derive(model, run, degree, **options)


def shares(plan, module):
    return next(m.split for m in plan.modules if m.module == module)


def test_a_fused_projection_is_cut_by_heads_within_queries_keys_and_values():
    plan = plan_of("gpt")
    assert shares(plan, "blocks.0.qkv") == Split((2, 2), (6, 6, 6))
    assert shares(plan, "blocks.0.out") == Split((2, 2), (6,))
    assert plan.style("blocks.0.norm1") == Style.REPLICATED
    assert plan.parameters["blocks.0.qkv.bias"] == (0, Split((2, 2), (6, 6, 6)))
    assert plan.parameters["blocks.0.out.weight"] == (1, Split((2, 2), (6,)))
    assert "blocks.0.out.bias" not in plan.parameters


def test_heads_first_in_a_fused_projection():
    assert shares(plan_of("functional"), "qkv") == Split((2, 2), (18,))


def test_groups_of_queries_stay_with_their_keys():
    plan = plan_of("grouped", 3)
    assert shares(plan, "qkv") == Split((2, 1, 1), (8, 4, 4))
    assert shares(plan, "gate_up") == Split((11, 10, 10), (1, 1))


def test_reasons_are_printed():
    text = str(plan_of("two_groups", 3))
    assert "its features form 2 groups, which 3 workers cannot share" in text
    assert "31 features that never meet before down, 2 fused" in text
    assert "no projection that could be split by rows reads it, and it is small" in text


def test_a_weight_with_a_second_use_stays_whole():
    plan = plan_of("functional", large_embedding=1)
    assert plan.style("token") == Style.REPLICATED  # its weight is the head, too, without a module


def test_a_plan_survives_json():
    plan = plan_of("tied_gpt", sequence=True)
    assert TensorPlan.from_dict(json.loads(json.dumps(plan.as_dict()))) == plan
    assert plan.style("token") == Style.VOCABULARY
    assert plan.style("blocks.1.norm1") == Style.SEQUENCE


def test_one_worker_splits_nothing():
    assert not plan_of("gpt", 1).parameters
    with pytest.raises(UsageError, match="tp=1"):
        plan_of("gpt", 0)


def test_a_chain_of_layers_alternates():
    model = nn.Sequential(*(layer for _ in range(5) for layer in (nn.Linear(8, 8), nn.ReLU())))
    plan = derive(model, lambda: model(torch.ones(2, 8)), 2)
    assert [str(m.style) for m in plan.modules] == ["column", "row", "column", "row", "replicated"]


def test_gate_and_value_of_one_projection_stay_together():
    model = nn.Sequential(nn.Linear(8, 24), nn.GLU(), nn.Linear(12, 8))
    plan = derive(model, lambda: model(torch.ones(2, 8)), 3)
    assert shares(plan, "0") == Split((4, 4, 4), (1, 1))
    assert plan.style("2") == Style.ROW


def test_what_nothing_else_may_see():
    """A layer whose features meet in a way unknown to us stays whole."""

    class Strange(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

        def forward(self, x):
            return self.down(self.up(x).sort(-1).values)

    model = Strange()
    plan = derive(model, lambda: model(torch.ones(2, 8)), 2)
    assert not plan.parameters
    assert "all its features are used together" in str(plan)


def test_a_tie_that_cannot_be_split_alike():
    """Two layers of an MLP share one weight: by rows in one, by columns in the other."""
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.ReLU(), nn.Linear(8, 8, bias=False))
    model[2].weight = model[0].weight
    plan = derive(model, lambda: model(torch.ones(2, 8)), 2)
    assert not plan.parameters
    assert "0.weight is shared by modules that cannot be split alike" in str(plan)


def test_the_model_is_as_before():
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 4))
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    derive(model, lambda: model(torch.randn(4, 4)), 2)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    assert [module.training for module in model] == [True, False, True, True]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model)
    assert torch.backends.mha.get_fastpath_enabled()


def test_the_model_s_own_plan_is_heard(gang_of):
    lines = gang_of(2).run(plan_text, "llama")[0].splitlines()
    assert "the model's tp_plan says so" in next(line for line in lines if "0.self_attn.q_proj " in line)
    assert "vocabulary" in next(line for line in lines if "embed_tokens" in line)  # small, but its authors split it
