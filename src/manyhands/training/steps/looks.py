"""What replicas tell each other in a step to see whether they are alike: what they will apply it with (same.py), what
they hold (alike.py), and what a second one has computed as well (audit.py)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import manyhands.training.steps.same as same
from manyhands.collective import Block
from manyhands.sync import AllReduce, Policy
from manyhands.training.learner import Learner
from manyhands.training.steps.alike import Alike
from manyhands.training.steps.audit import Audit, Found
from manyhands.transport import Group


class Looks:
    """One worker's side of it, under one policy. Only of replicas that are the same after every step more than learning
    rates are looked at.

    Args:
        learner: what is trained.
        policy: says when replicas agree.
        group: the gang; None for a worker that is alone.
        every: one micro-batch in so many is computed twice; 0: none is.
        again: computes a micro-batch and leaves nothing behind.
    """

    def __init__(
        self, learner: Learner, policy: Policy, group: Group | None, every: int, again: Callable[[int], Found]
    ) -> None:
        self._learner, self._group, self._several = learner, group, policy.workers > 1
        alike = self._several and isinstance(policy, AllReduce) and learner.job.reproducible
        self._alike = Alike(learner) if alike else None
        self._audit = Audit(learner.job.seed, every, policy.rank, again) if alike and every else None

    @property
    def agreed(self) -> int:
        """The last step after which all replicas were seen to hold the same; -1: none yet."""
        return self._alike.agreed if self._alike is not None else -1

    def soon(self) -> None:
        """A state was left for others: compare it in the next step."""
        if self._alike is not None:
            self._alike.soon()

    def begin(self, blocks: Sequence[Block]) -> set[int]:
        """A step begins: compute what is another worker's. Returns which of this worker's own another one computes."""
        return self._audit.begin(self._learner.step, blocks) if self._audit is not None else set()

    def tell(self, own: Mapping[int, Found], took: float) -> dict[str, Any]:
        """What this worker tells the others.

        Args:
            own: what those of its micro-batches came to that others have computed as well.
            took: seconds of the step before.
        """
        told = same.rates(self._learner.optimizer) if self._several else {}
        if self._alike is not None:
            told |= self._alike.look(took)
        if self._audit is not None:
            told |= self._audit.look(own)
        return told

    def judge(self, told: Sequence[Mapping[str, Any]], give_up: Callable[[], None]) -> None:
        """Compare what all have told.

        Args:
            told: by rank.
            give_up: gives the step up, so that micro-batches can be computed again.

        Raises:
            DeviationError: replicas do not hold, or do not compute, the same.
        """
        alike, group = self._alike, self._group
        if alike is None or group is None:
            return
        gather = group.all_gather_bytes
        alike.judge(told, gather)

        def first() -> None:
            give_up()
            alike.compare(gather)

        if self._audit is not None:
            self._audit.judge(told, gather, first)
