"""Stages of one model run one after another by hand, as workers would: compared with the model in one piece."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from manyhands.pipeline.stages import Recording, Split, StageModule, record

Loss = Callable[[Any], Tensor]


def call(model: nn.Module, inputs: Any) -> Any:
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def recorded(model: nn.Module, inputs: Any) -> Recording:
    """A recording that has been sent to another worker."""
    import json

    recording = record(model, lambda: call(model, inputs))
    again = Recording.from_dict(json.loads(json.dumps(recording.as_dict())))
    assert again == recording
    return again


def whole(model: nn.Module, inputs: Any, loss: Loss) -> tuple[Tensor, dict[str, Tensor | None], dict[str, Tensor]]:
    """Loss, gradients and buffers of the model in one piece."""
    model = copy.deepcopy(model)
    torch.manual_seed(7)
    value = loss(call(model, inputs))
    value.backward()
    return value.detach(), {n: p.grad for n, p in model.named_parameters()}, dict(model.named_buffers())


class Worker:
    """One stage, with a copy of the model from which all but the stage's parameters are gone."""

    def __init__(self, model: nn.Module, recording: Recording, first: int, last: int) -> None:
        self.model = copy.deepcopy(model)
        self.stage = StageModule(self.model, recording, first, last, entered=self.enter)
        for name, parameter in self.model.named_parameters():
            if name not in self.stage.owned:
                parameter.data = torch.empty(0)
        self.state: Tensor | None = None

    def enter(self) -> None:
        if self.state is not None:
            torch.set_rng_state(self.state)

    def forward(self, inputs: Any, sent: Sequence[Tensor], state: Tensor | None) -> Any:
        torch.manual_seed(7)
        self.state = state
        self.received = [
            t.detach().contiguous().clone().requires_grad_(v.requires_grad)
            for t, v in zip(sent, self.stage.receives, strict=True)
        ]
        self.output = self.stage(inputs, self.received)
        return self.output

    def backward(
        self,
        outputs: list[Tensor],
        grads: list[Tensor | None] | None,
        split: bool,
        later: dict[str, Tensor],
    ) -> list[Tensor | None]:
        """`later`: tied parameters' gradients from later stages. Given as roots, they come first in autograd's sum."""
        if split:
            roots = [*outputs, *(self.stage.owned[name] for name in later)]
            given = [*(grads or [torch.ones_like(o) for o in outputs]), *later.values()]
            found, rest = Split().inputs(roots, given, self.received, self.stage.parameters())
            self.output = outputs = ()
            Split().weights(self.stage.parameters(), rest)
            return found
        pairs = [(o, g) for o, g in zip(outputs, grads or [None] * len(outputs), strict=True) if o.requires_grad]
        pairs += [(self.stage.owned[name], grad) for name, grad in later.items()]
        torch.autograd.backward([o for o, _ in pairs], [g for _, g in pairs])
        return [t.grad for t in self.received]


def chain(
    model: nn.Module, recording: Recording, cuts: Sequence[int], inputs: Any, loss: Loss, split: bool = False
) -> tuple[Tensor, dict[str, Tensor | None], dict[str, Tensor]]:
    """Loss, gradients and buffers of the model in stages that begin at `cuts`."""
    ends = [*cuts[1:], len(recording.units)]
    workers = [Worker(model, recording, first, last) for first, last in zip(cuts, ends, strict=True)]
    sent, state = (), None
    for worker in workers:
        sent = worker.forward(inputs, sent, state)
        state = torch.get_rng_state()
    value = loss(sent)
    total: dict[str, Tensor | None] = dict.fromkeys(dict(model.named_parameters()))
    buffers: dict[str, Tensor] = {}
    outputs, grads = [value], None
    for worker in reversed(workers):  # the last stage first: autograd's order
        apart = split and worker is not workers[0]
        if grads is not None:
            outputs = list(worker.output)
            grads = [torch.zeros_like(o) if g is None else g.contiguous() for g, o in zip(grads, outputs, strict=True)]
        later = {name: total[name] for name in worker.stage.owned if total[name] is not None}
        grads = worker.backward(outputs, grads, apart, later)
        for name, parameter in worker.stage.owned.items():
            if parameter.grad is not None:
                total[name] = parameter.grad
        assert all(p.grad is None for n, p in worker.model.named_parameters() if n not in worker.stage.owned)
        buffers |= worker.stage.owned_buffers
    assert set().union(*(worker.stage.owned for worker in workers)) == set(total)
    return value.detach(), total, buffers


def check(
    model: nn.Module,
    inputs: Any,
    loss: Loss,
    recording: Recording | None = None,
    layouts: Sequence[Sequence[int]] | None = None,
    split: bool = False,
) -> Recording:
    """Every cut into two gives the same bits as the model in one piece, and so do the given layouts."""
    recording = recording or recorded(model, inputs)
    expected = whole(model, inputs, loss)
    for cuts in layouts or [(0, k) for k in range(1, len(recording.units))]:
        same(expected, chain(model, recording, cuts, inputs, loss, split), cuts)
    return recording


def same(expected: Any, found: Any, cuts: Sequence[int]) -> None:
    assert torch.equal(expected[0], found[0]), (cuts, expected[0], found[0])
    for name, grad in expected[1].items():
        other = found[1][name]
        if grad is None:
            assert other is None or not other.any(), (cuts, name)
        else:
            assert other is not None and torch.equal(grad, other), (cuts, name, grad, other)
    for name, buffer in expected[2].items():
        assert torch.equal(buffer, found[2][name]), (cuts, name)
