"""What is found out about jobs, and about optimizers by trying them."""

import pytest
import torch
from torch import nn

from manyhands import Job
from manyhands.parallel.traits import find_coupling, find_traits

optim = torch.optim


class Lamb(optim.Optimizer):
    """Each parameter's update is scaled by its own norm."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.1})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for param in group["params"]:
                param -= 0.1 * param.grad * param.norm() / param.grad.norm()


class ByGlobalNorm(optim.SGD):
    """Divides all gradients by the norm of them all."""

    def step(self, closure=None):
        norm = torch.stack([param.grad.norm() for group in self.param_groups for param in group["params"]]).norm()
        for group in self.param_groups:
            for param in group["params"]:
                param.grad /= norm
        super().step()


@pytest.mark.parametrize(
    ("factory", "coupling"),
    [
        (lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True), "element"),
        (lambda p: optim.AdamW(p, lr=1e-3, amsgrad=True), "element"),
        (lambda p: optim.Adam(p, foreach=True), "element"),
        (optim.NAdam, "element"),
        (optim.RMSprop, "element"),
        (optim.Adagrad, "element"),
        (optim.Rprop, "element"),
        (lambda p: optim.AdamW([{"params": list(p), "weight_decay": 0.1}]), "element"),
        (lambda p: optim.Adafactor(p, lr=0.1), "parameter"),
        (Lamb, "parameter"),
        (ByGlobalNorm, "model"),
        (optim.LBFGS, "parameter"),  # asks for a closure, so it cannot be tried
    ],
)
def test_what_an_optimizer_looks_at(factory, coupling):
    state = torch.get_rng_state()
    assert find_coupling(factory) == coupling
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.skipif(not hasattr(optim, "Muon"), reason="this torch has no Muon")
def test_muon():
    assert find_coupling(lambda p: optim.Muon(p, lr=0.1)) == "parameter"


class Net(nn.Module):
    def __init__(self, tied=False, dropout=0.0):
        super().__init__()
        self.embed = nn.Embedding(10, 8)
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.attention = nn.MultiheadAttention(8, 4, dropout=dropout)
        self.norm, self.head = nn.BatchNorm1d(8), nn.Linear(8, 10, bias=False)
        if tied:
            self.head.weight = self.embed.weight


def job(**values):
    given = {"model": Net, "data": list, "loss": print, "optimizer": optim.Adam, "batch_size": 8, "steps": 1, **values}
    return Job(**given)


UNITS = ("embed", "blocks.0", "blocks.1", "blocks.2", "attention", "norm", "head")


def test_of_a_job():
    traits = find_traits(job(clip_grad_norm=1.0, precision="bf16", micro_batches=4), Net(), UNITS)
    assert (traits.micro_batches, traits.batch_size, traits.units) == (4, 8, 7)
    assert traits.clip and traits.precision == "bf16" and not traits.compile and traits.reproducible
    assert traits.batch_norm and not traits.dropout and traits.coupling == "element"
    assert (traits.tied, traits.frozen, traits.heads, traits.kv_heads) == (0, "none", 4, None)


def test_of_a_model():
    assert find_traits(job(), Net(tied=True)).tied == 1
    assert find_traits(job(), Net()).units is None
    assert find_traits(job(), Net(dropout=0.1)).dropout
    assert find_traits(job(), nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))).dropout
    assert not find_traits(job(), nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.0))).dropout


@pytest.mark.parametrize(("frozen", "where"), [("embed", "front"), ("blocks.1", "elsewhere"), ("", "front")])
def test_frozen(frozen, where):
    model = Net()
    model.get_submodule(frozen).requires_grad_(False)
    assert find_traits(job(), model, UNITS).frozen == where
    assert find_traits(job(), model).frozen == where


def test_heads_of_transformers():
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=8, pad_token_id=None,
    )  # fmt: skip
    traits = find_traits(job(), LlamaForCausalLM(config))
    assert (traits.heads, traits.kv_heads) == (4, 2)
