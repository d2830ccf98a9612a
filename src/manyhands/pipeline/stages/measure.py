"""What every unit of a model costs on real data: seconds of its three parts, and bytes.

Each unit runs as a stage of its own, code around it included, on what the units before it made. The gradient of the
inputs is timed by itself; that of the weights is what the whole backward pass takes longer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from math import prod
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from manyhands.pipeline.cuts import UnitCost
from manyhands.pipeline.stages.recording import Recording
from manyhands.pipeline.stages.stage_module import StageModule
from manyhands.pipeline.stages.structure import leaves
from manyhands.pipeline.stages.undisturbed import undisturbed


class _Times(NamedTuple):
    forward: float
    input: float
    backward: float


def measure(
    model: nn.Module,
    recording: Recording,
    run: Callable[[], Any],
    loss: Callable[[Any], Tensor] | None = None,
    repetitions: int = 3,
) -> list[UnitCost]:
    """The costs of every unit for one micro-batch.

    Args:
        run: calls the model once and returns its output, as for `record`.
        loss: `output -> scalar`; counts to the last unit. None: backward begins at the output.
        repetitions: timed runs of every unit, after one that is not timed; the median counts.
    """
    costs = []
    received: tuple[Tensor, ...] = ()
    known: dict[int, Tensor] = {}
    with undisturbed(model), torch.enable_grad():
        for number, unit in enumerate(recording.units):
            probe = _Probe(model, recording, number, run, loss)
            held, sent = probe.activations(received, known)
            times = [probe.time(received) for _ in range(repetitions)]
            forward, inputs, backward = (median(column) for column in zip(*times, strict=True))
            costs.append(
                UnitCost(
                    name=unit.name,
                    forward=forward,
                    input=inputs,
                    weight=max(backward - inputs, 0.0),
                    parameter_bytes=sum(_bytes(recording, name) for name in unit.parameters),
                    activation_bytes=held,
                    crossing_bytes=recording.crossing_bytes(number),
                )
            )
            received = sent
    return costs


class _Probe:
    """One unit as a stage, run again and again."""

    def __init__(
        self,
        model: nn.Module,
        recording: Recording,
        number: int,
        run: Callable[[], Any],
        loss: Callable[[Any], Tensor] | None,
    ) -> None:
        self._model, self._run, self._loss = model, run, loss
        self._is_first, self._is_last = number == 0, number == len(recording.units) - 1
        entered = (lambda: None) if self._is_first else self._begin
        self._stage = StageModule(model, recording, number, number + 1, entered)
        self._parameters = [p for p in self._stage.parameters() if p.requires_grad]
        self._device = next((p.device for p in model.parameters()), torch.device("cpu"))
        self._started = 0.0

    def activations(self, received: Sequence[Tensor], known: dict[int, Tensor]) -> tuple[int, tuple[Tensor, ...]]:
        """Bytes that one micro-batch holds for backward, and what the unit sends.

        Args:
            known: memory that earlier units hold already, by address; keeps what this one sends.
        """
        fixed = {t.untyped_storage().data_ptr() for t in (*self._model.parameters(), *self._model.buffers())}
        held: dict[int, Tensor] = {}

        def pack(tensor: Tensor) -> Tensor:
            address = tensor.untyped_storage().data_ptr()
            if address not in fixed and address not in known:
                held[address] = tensor.detach()
            return tensor.detach()  # the tensor itself would hold its graph, and the graph it, for ever

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            output = self._forward(_fresh(received))
        sent = () if self._is_last else tuple(tensor.detach().requires_grad_(tensor.requires_grad) for tensor in output)
        size = sum(tensor.untyped_storage().nbytes() for tensor in held.values())
        addresses = {tensor.untyped_storage().data_ptr() for tensor in sent}
        kept = {address: tensor for address, tensor in {**known, **held}.items() if address in addresses}
        known.clear()
        known.update(kept)
        return size, sent

    def time(self, received: Sequence[Tensor]) -> _Times:
        given = _fresh(received)
        output = self._forward(given)
        forward = self._now() - self._started
        results = [leaf for leaf in leaves(output) if isinstance(leaf, Tensor) and leaf.requires_grad]
        inputs = [tensor for tensor in given if tensor.requires_grad]
        if not results:
            return _Times(forward, 0.0, 0.0)
        back = self._backward(results, inputs, keep=True) if inputs else 0.0
        return _Times(forward, back, self._backward(results, inputs + self._parameters, keep=False))

    def _forward(self, received: Sequence[Tensor]) -> Any:
        hook = self._model.register_forward_pre_hook(lambda *_: self._begin()) if self._is_first else None
        try:
            output = self._stage.run(self._run, received)
        finally:
            if hook is not None:
                hook.remove()
        return self._loss(output) if self._loss is not None and self._is_last else output

    def _begin(self) -> None:
        """The unit's own work begins: with the model's forward for the first one, at their entry for the others."""
        self._started = self._now()

    def _backward(self, results: list[Tensor], wanted: list[Tensor], keep: bool) -> float:
        grads = [torch.ones_like(result) for result in results]
        start = self._now()
        if wanted:
            torch.autograd.grad(results, wanted, grads, retain_graph=keep, allow_unused=True)
        return self._now() - start

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


def _fresh(received: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.detach().requires_grad_(tensor.requires_grad) for tensor in received]


def _bytes(recording: Recording, name: str) -> int:
    parameter = recording.parameters[name]
    return prod(parameter.shape) * parameter.dtype.itemsize
