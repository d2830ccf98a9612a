"""Forward alone: a model's stages one after another, each on the rank that holds it, without a table.

Every rank calls it with the same inputs and computes its stages as what they need arrives; the state of the random
generators travels with the activations, as in a step. Whoever holds the last stage has the model's output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._pytree import tree_map

from manyhands.pipeline.randomness import Randomness
from manyhands.pipeline.stage import Body, Crossing, message_tag


class _Given(NamedTuple):
    """What a stage gives the next one."""

    values: Sequence[Tensor]
    state: Tensor
    """State of the random generators."""


class Relay:
    """The stages of this rank, in inference.

    Args:
        bodies: by stage.
        placement: by stage, the rank that holds it.
        group: the ranks of the pipeline; None where all stages are here.
        device: of the tensors.
        randomness: the generators that the model draws from.
        travels: gives the values that cross to the next stage the form in which they travel.
    """

    def __init__(
        self,
        bodies: Mapping[int, Body],
        placement: Sequence[int],
        group: dist.ProcessGroup | None,
        device: torch.device,
        randomness: Randomness,
        travels: Callable[[Sequence[Tensor]], tuple[Tensor, ...]],
    ) -> None:
        self._bodies, self._placement, self._group = dict(sorted(bodies.items())), placement, group
        self._device, self._randomness, self._travels = device, randomness, travels

    def __call__(self, inputs: Any) -> Any:
        """The model's output for a batch, where the last stage is; None elsewhere."""
        given: _Given | None = None
        for stage, body in self._bodies.items():
            received: Sequence[Tensor] = ()
            if stage:
                near = self._placement[stage - 1] == self._placement[stage]
                if given is None or not near:
                    given = self._receive(stage, body.arriving(inputs))
                received, state = given
                body.entered = lambda state=state: self._randomness.write(state)
            # A forward pass may change its inputs in place, and the next stage here begins with them, too.
            output = body(_copy(inputs) if len(self._bodies) > 1 else inputs, received)
            if stage == len(self._placement) - 1:
                return output
            given = _Given(self._travels(output), self._randomness.read())
            if self._placement[stage + 1] != self._placement[stage]:
                self._send(stage + 1, given)
        return None

    def _receive(self, stage: int, values: Sequence[Crossing]) -> _Given:
        """What the stage before gives this one, from the rank that holds it."""
        tensors = [torch.empty(value.shape, dtype=value.dtype, device=self._device) for value in values]
        state = torch.empty(self._randomness.size, dtype=torch.uint8)
        source = self._placement[stage - 1]
        for slot, tensor in enumerate((*tensors, state)):
            work = dist.irecv(tensor, group=self._group, group_src=source, tag=message_tag(stage, slot))
            assert work is not None
            work.wait()
        return _Given(tensors, state)

    def _send(self, stage: int, given: _Given) -> None:
        """Send what a stage gives to the rank of `stage`, which comes next."""
        goal = self._placement[stage]
        for slot, tensor in enumerate((*given.values, given.state)):
            whole = tensor.detach().contiguous()
            work = dist.isend(whole, group=self._group, group_dst=goal, tag=message_tag(stage, slot))
            assert work is not None
            work.wait()


def _copy(inputs: Any) -> Any:
    return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, inputs)
