"""A parameter that several stages use: its gradients, added as one worker would add them.

Each stage has a copy. The first stage that uses it owns it; the others hand it every micro-batch's gradient, one
stage to the one before, so that the sum is the one of autograd, which goes through the model backwards. The sum over
micro-batches is then made by the owner alone: the same bits as one worker's, for a copy of the parameter sent per
micro-batch. After the update the owner sends the new value to the others. It counts once in the norm, because only
the owner has its gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.graph import Node, get_gradient_edge

_TAGS = 1 << 24
"""Tags of ties begin here, above those of the stages."""


class Tie:
    """One parameter that ties stages of this rank to others.

    Args:
        number: of the tie, the same on all ranks.
        name: of the parameter.
        stages: that use it, ascending.
        ranks: of each of those stages, in the pipeline's group.
        group: the pipeline's.
    """

    def __init__(
        self, number: int, name: str, stages: Sequence[int], ranks: Sequence[int], group: dist.ProcessGroup
    ) -> None:
        self.name, self.stages = name, tuple(stages)
        self._ranks, self._group, self._tag = dict(zip(stages, ranks, strict=True)), group, _TAGS + (number << 8)
        self._rank = group.rank()
        self._kept: dict[tuple[int, int], Tensor] = {}
        self._sent: list[dist.Work] = []

    def owner(self, stage: int) -> bool:
        return stage == self.stages[0]

    def last(self, stage: int) -> bool:
        return stage == self.stages[-1]

    def from_later(self, stage: int, micro_batch: int, like: Tensor) -> Callable[[], Tensor]:
        """A function that waits for what later stages add to the gradient, and gives it."""
        later = self.stages[self.stages.index(stage) + 1]
        if self._ranks[later] == self._rank:
            return lambda: self._kept.pop((later, micro_batch))
        received = torch.empty_like(like)
        tag = self._tag + self.stages.index(stage)
        work = dist.irecv(received, group=self._group, group_src=self._ranks[later], tag=tag)

        def wait() -> Tensor:
            assert work is not None
            work.wait()
            return received

        return wait

    def hand_on(self, stage: int, micro_batch: int, gradient: Tensor) -> None:
        """Give the sum so far to the stage before that uses the parameter."""
        place = self.stages.index(stage) - 1
        rank = self._ranks[self.stages[place]]
        if rank == self._rank:
            self._kept[stage, micro_batch] = gradient
            return
        work = dist.isend(gradient.contiguous(), group=self._group, group_dst=rank, tag=self._tag + place)
        assert work is not None
        self._sent.append(work)

    def finish(self) -> None:
        """Wait until all that was sent in this step has gone."""
        for work in self._sent:
            work.wait()
        self._sent.clear()

    def clear(self) -> None:
        self._kept.clear()
        self._sent.clear()

    def share(self, value: Tensor) -> None:
        """Make the owner's value everyone's, in place; called on every rank that has a copy."""
        owner = self._ranks[self.stages[0]]
        others = sorted(set(self._ranks.values()) - {owner})
        if self._rank != owner:
            work = dist.irecv(value, group=self._group, group_src=owner, tag=self._tag + 255)
            assert work is not None
            work.wait()
            return
        for work in [dist.isend(value, group=self._group, group_dst=rank, tag=self._tag + 255) for rank in others]:
            assert work is not None
            work.wait()


def watch_uses(param: Tensor, outputs: Iterable[Tensor]) -> list[Tensor]:
    """A list that will hold the gradient of each use of a parameter that a graph uses several times, in the order in
    which backward adds them. Empty for ever where it is used once.

    What later stages give comes first in the sum, and in a zero-bubble pipeline it may come last in time: then the
    uses cannot be added up before.
    """
    accumulates = get_gradient_edge(param).node
    uses: list[tuple[Node, int]] = []
    seen: set[Node] = set()
    stack = [output.grad_fn for output in outputs if output.grad_fn is not None]
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            for place, (following, _) in enumerate(node.next_functions):
                if following is accumulates:
                    uses.append((node, place))
                elif following is not None:
                    stack.append(following)
    found: list[Tensor] = []
    if len(uses) > 1:
        for node, place in uses:
            node.register_hook(partial(_keep, found, place))
    return found


def _keep(found: list[Tensor], place: int, gradients: Sequence[Tensor | None], given: object) -> None:
    gradient = gradients[place]
    if gradient is not None:
        found.append(gradient)
