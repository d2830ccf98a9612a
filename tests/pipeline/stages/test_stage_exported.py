"""A model of one piece is cut as a graph of operators, with the same names and the same bits."""

from __future__ import annotations

import copy

import pytest
import torch
from stage_chain import check
from torch import Tensor, nn
from torch.nn import functional as F

from manyhands.errors import UserError
from manyhands.pipeline.stages import cuttable, exported, record


class OnePiece(nn.Module):
    """Parameters of the root's own, a tied embedding, batch norm by function, dropout, attention, a dict of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList(nn.Parameter(torch.randn(8, 8) / 3) for _ in range(4))
        self.embed, self.norm = nn.Embedding(16, 8), nn.BatchNorm1d(8)
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        h = F.embedding(x, self.embed.weight)
        for index, weight in enumerate(self.weights):
            h = h + F.dropout(torch.tanh(h @ weight), 0.2, self.training)
            if index == 1:
                h = F.scaled_dot_product_attention(h, h, h, is_causal=True, dropout_p=0.1 if self.training else 0.0)
        h = F.batch_norm(
            h.mean(1), self.norm.running_mean, self.norm.running_var, self.norm.weight, self.norm.bias, self.training
        )
        h.mul_(2)
        return {"logits": h @ self.embed.weight.T, "h": h}


class Undecided(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.weight
        return y @ self.weight if y.sum() > 0 else y


X = torch.randint(0, 16, (4, 3), generator=torch.Generator().manual_seed(0))


def test_a_model_of_one_piece():
    torch.manual_seed(0)
    model = OnePiece()
    with pytest.raises(UserError, match="calls no module"):
        record(model, lambda: model(X))
    made, recording = cuttable(model, lambda m: m(X, mask=None), at_least=3)
    assert len(recording.units) >= 3
    assert [n for n, _ in made.named_parameters()] == [n for n, _ in model.named_parameters()]
    assert all(a is b for a, b in zip(made.parameters(), model.parameters(), strict=True))
    assert list(made.state_dict()) == list(model.state_dict())
    assert "embed.weight" in recording.ties and recording.units[-1].buffers
    torch.manual_seed(3)
    whole = copy.deepcopy(model)(X)
    torch.manual_seed(3)
    assert torch.equal(made(X, mask=None)["logits"], whole["logits"])
    loss = lambda o: o["logits"].square().mean() + o["h"].mean()  # noqa: E731
    check(made, {"x": X, "mask": None}, loss, recording)
    gradients(model, made, loss)


def gradients(model: nn.Module, made: nn.Module, loss) -> None:
    found = []
    for m in (copy.deepcopy(model), made):
        torch.manual_seed(5)
        loss(m(X, mask=None)).backward()
        found.append({name: p.grad for name, p in m.named_parameters()})
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_evaluation():
    model = OnePiece()
    made = exported(model, lambda: model(X), 4)
    made.eval()
    model.eval()
    assert torch.equal(made(X)["logits"], model(X)["logits"])


def test_a_model_that_is_cut_by_its_modules_stays_as_it_is():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    assert cuttable(model, lambda m: m(torch.randn(2, 4)), 2)[0] is model


def test_a_forward_that_cannot_be_exported():
    model = Undecided()
    with pytest.raises(UserError) as error:
        cuttable(model, lambda m: m(torch.randn(2, 4)), 2)
    assert "calls no module that has parameters" in str(error.value)
    assert "As a graph of operators it cannot be cut either: torch.export stopped at" in str(error.value)
    assert "test_stage_exported.py" in str(error.value)
