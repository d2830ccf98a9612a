"""One stage of a pipeline at work: what happens for forward, backward, input gradient and weight gradient.

torch's schedule runtime (runtime.py) says when; a stage computes, keeps what backward needs, and names the tensors to
send and to receive. It differs from `torch.distributed.pipelining.PipelineStage` in what law 1 asks for: the random
state travels with the activations, every micro-batch's gradient is handed over by itself, and any number of values of
any dtype may cross.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from manyhands.pipeline.randomness import Randomness
from manyhands.pipeline.stages.split import Rest, Split
from manyhands.torch.mesh import PeerOp

_SLOTS = 1024
"""Tags for one direction of one cut: those of its values, and of the random state."""


def message_tag(stage: int, slot: int, backward: bool = False) -> int:
    """The tag of what crosses the cut before a stage: value number `slot`, or its gradient."""
    return (2 * stage + backward) * _SLOTS + slot


class Crossing(Protocol):
    """A value that crosses a cut."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def requires_grad(self) -> bool: ...


class Body(Protocol):
    """What a stage computes: `manyhands.pipeline.stages.StageModule`, or a stand-in."""

    @property
    def entered(self) -> Callable[[], None]:
        """Called when the stage's own part begins, after what all stages do alike."""
        ...

    @entered.setter
    def entered(self, hook: Callable[[], None]) -> None: ...

    @property
    def receives(self) -> Sequence[Crossing]: ...

    @property
    def sends(self) -> Sequence[Crossing]: ...

    def arriving(self, inputs: Any) -> Sequence[Crossing]:
        """The values that a stage receives for such inputs, which need not be of a micro-batch's size."""
        ...

    def __call__(self, inputs: Any, received: Sequence[Tensor]) -> Any: ...


class Task(Protocol):
    """What a stage asks of the training loop."""

    def begin(self, stage: int, micro_batch: int) -> Any:
        """The micro-batch's inputs, before a forward. Leaves the generators as the micro-batch's stream begins."""
        ...

    def loss(self, stage: int, micro_batch: int, output: Any) -> Tensor:
        """What the last stage differentiates: the loss, as a scalar."""
        ...

    def sent(self, values: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The values that cross to the next stage, in the form in which they travel."""
        ...

    def forward_done(self, stage: int, micro_batch: int) -> None: ...

    def before_backward(self, stage: int, micro_batch: int) -> tuple[list[Tensor], list[Tensor]]:
        """Further roots of the backward pass and their gradients."""
        ...

    def gradients(self, stage: int, micro_batch: int) -> None:
        """The gradients of the stage's parameters for this micro-batch are complete, in `.grad`."""
        ...

    def enter(self, phase: str, micro_batch: int = -1) -> None:
        """Say what goes on from now on, for the timeline."""
        ...

    def reduce(self, stage: int) -> None:
        """The stage's last gradient is there."""
        ...


@dataclass
class _Held:
    """What a micro-batch's backward needs."""

    outputs: tuple[Tensor, ...]
    received: list[Tensor]
    state: Tensor | None
    """State of the generators after this stage's forward; None at the last one."""
    grads: list[Tensor | None] = field(default_factory=list)
    """Gradients of the outputs; none at the last stage."""
    rest: Rest | None = None
    """What is left to do for the weights."""


class Stage:
    """A stage on this rank, in the form that torch's runtime drives.

    Args:
        body: the computation.
        index: of the stage; `count` stages in all.
        group: the ranks of the pipeline; None where all stages are here.
        device: of the tensors.
        task: the training loop around it.
        randomness: of every micro-batch.
        weights: gives the stage's parameters as autograd knows them at that moment.
    """

    has_backward = True

    def __init__(
        self,
        body: Body,
        index: int,
        count: int,
        group: dist.ProcessGroup | None,
        device: torch.device,
        task: Task,
        randomness: Randomness,
        weights: Callable[[], list[nn.Parameter]],
    ) -> None:
        self.body, self.stage_index, self.num_stages, self.group, self.device = body, index, count, group, device
        self.group_rank = group.rank() if group is not None else 0
        self.group_size = group.size() if group is not None else 1
        self.is_first, self.is_last = index == 0, index == count - 1
        self.submod = (
            nn.Identity()
        )  # the runtime looks whether it is sharded; sharding is looked after by the body itself
        self.stage_index_to_group_rank: dict[int, int] = {}
        self.high_water = 0
        """The most micro-batches held at once."""
        self._task, self._randomness, self._weights, self._split = task, randomness, weights, Split()
        self._arrived: dict[int, list[Tensor]] = {}
        self._held: dict[int, _Held] = {}
        self._gradient_arrived: dict[int, list[Tensor]] = {}
        self._gradient_left: dict[int, list[Tensor]] = {}

    # What the runtime calls: computing

    def forward_one_chunk(
        self, micro_batch: int, args: Any = None, kwargs: Any = None, save_forward_output: bool = False
    ) -> Any:
        inputs = self._task.begin(self.stage_index, micro_batch)
        received: list[Tensor] = []
        if not self.is_first:
            *values, state = self._arrived.pop(micro_batch)
            received = [
                t.requires_grad_() if v.requires_grad else t for t, v in zip(values, self.body.receives, strict=True)
            ]
            self.body.entered = lambda: self._randomness.write(state)
        self._task.enter("forward", micro_batch)
        output = self.body(inputs, received)
        if self.is_last:
            held = _Held((self._task.loss(self.stage_index, micro_batch, output),), received, None)
        else:
            held = _Held(self._task.sent(output), received, self._randomness.read())
        self._held[micro_batch] = held
        self.high_water = max(self.high_water, len(self._held))
        self._task.forward_done(self.stage_index, micro_batch)
        self._task.enter("idle")
        if self.is_last:
            return held.outputs[0].detach()  # torch keeps all losses to the end of the step, and with them the graphs
        return held.outputs, held.state

    def backward_one_chunk(
        self, micro_batch: int, loss: Any = None, full_backward: bool = True, last_backward: bool = False
    ) -> None:
        """Compute a whole backward, or only the gradient of the inputs."""
        held = self._held[micro_batch]
        if not self.is_last:
            arrived = iter(self._gradient_arrived.pop(micro_batch))
            held.grads = [next(arrived) if value.requires_grad else None for value in self.body.sends]
        if full_backward:
            self._task.enter("backward", micro_batch)
            self._backward(micro_batch, held)
            self._finish(micro_batch)
            return
        self._task.enter("input_gradient", micro_batch)
        if self.is_first:  # nobody waits for its inputs' gradient; all is done with the weights
            self._task.enter("idle")
            return
        grads = None if self.is_last else held.grads
        found, held.rest = self._split.inputs(held.outputs, grads, held.received, self._weights())
        self._leave(micro_batch, held, found)
        held.outputs, held.grads = (), []
        self._task.enter("idle")

    def backward_weight_one_chunk(self, micro_batch: int, last_backward: bool = False) -> None:
        """Compute the gradient of the weights, after that of the inputs."""
        self._task.enter("weight_gradient", micro_batch)
        held = self._held[micro_batch]
        if self.is_first:
            self._backward(micro_batch, held)
        else:
            assert held.rest is not None
            self._split.weights(self._weights(), held.rest)
        self._finish(micro_batch)

    def perform_reduce_grad(self, grad_scale_factor: int) -> None:
        self._task.reduce(self.stage_index)

    def _backward(self, micro_batch: int, held: _Held) -> None:
        roots, root_grads = self._task.before_backward(self.stage_index, micro_batch)
        grads = [None] if self.is_last else held.grads
        pairs = [(o, g) for o, g in zip(held.outputs, grads, strict=True) if o.requires_grad]
        if pairs or roots:
            torch.autograd.backward([o for o, _ in pairs] + roots, [g for _, g in pairs] + root_grads)
        self._leave(micro_batch, held, [t.grad for t in held.received])

    def _leave(self, micro_batch: int, held: _Held, found: Sequence[Tensor | None]) -> None:
        """Keep the gradients of what was received, for the stage before."""
        self._gradient_left[micro_batch] = [
            grad if grad is not None else torch.zeros_like(tensor)
            for tensor, grad, value in zip(held.received, found, self.body.receives, strict=True)
            if value.requires_grad
        ]

    def _finish(self, micro_batch: int) -> None:
        del self._held[micro_batch]
        self._task.gradients(self.stage_index, micro_batch)
        self._task.enter("idle")

    # What the runtime calls: stages that follow one another on the same rank

    def set_local_fwd_input(self, given: tuple[tuple[Tensor, ...], Tensor], micro_batch: int) -> None:
        outputs, state = given
        self._arrived[micro_batch] = [*(t.detach() for t in outputs), state]

    def get_local_bwd_output(self, micro_batch: int) -> list[Tensor]:
        return self._gradient_left.pop(micro_batch)

    def set_local_bwd_input(self, gradients: list[Tensor], micro_batch: int) -> None:
        self._gradient_arrived[micro_batch] = gradients

    # What the runtime calls: what to send and to receive

    def get_fwd_recv_ops(self, micro_batch: int) -> list[dist.P2POp]:
        values = [torch.empty(v.shape, dtype=v.dtype, device=self.device) for v in self.body.receives]
        self._arrived[micro_batch] = [*values, torch.empty(self._randomness.size, dtype=torch.uint8)]
        return self._ops(dist.irecv, self._arrived[micro_batch], self.stage_index - 1, self.stage_index, False)

    def get_fwd_send_ops(self, micro_batch: int) -> list[dist.P2POp]:
        held = self._held[micro_batch]
        assert held.state is not None
        tensors = [*(t.detach().contiguous() for t in held.outputs), held.state]
        return self._ops(dist.isend, tensors, self.stage_index + 1, self.stage_index + 1, False)

    def get_bwd_recv_ops(self, micro_batch: int) -> list[dist.P2POp]:
        if self.is_last:
            return []
        grads = [torch.empty(v.shape, dtype=v.dtype, device=self.device) for v in self.body.sends if v.requires_grad]
        self._gradient_arrived[micro_batch] = grads
        return self._ops(dist.irecv, grads, self.stage_index + 1, self.stage_index + 1, True)

    def get_bwd_send_ops(self, micro_batch: int) -> list[dist.P2POp]:
        if self.is_first:
            return []
        grads = [g.contiguous() for g in self._gradient_left.pop(micro_batch)]
        return self._ops(dist.isend, grads, self.stage_index - 1, self.stage_index, True)

    def _ops(self, operation: Any, tensors: Sequence[Tensor], stage: int, cut: int, backward: bool) -> list[dist.P2POp]:
        """One operation for each tensor, with the rank of `stage`, over the cut before stage `cut`."""
        assert self.group is not None
        peer = self.stage_index_to_group_rank[stage]
        return [
            PeerOp(operation, tensor, group=self.group, tag=message_tag(cut, slot, backward), group_peer=peer)
            for slot, tensor in enumerate(tensors)
        ]

    # A step that went wrong

    def clear_runtime_states(self) -> None:
        """Forget everything of a step that was not finished."""
        for kept in (self._arrived, self._held, self._gradient_arrived, self._gradient_left):
            kept.clear()
