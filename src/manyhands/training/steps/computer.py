"""What the training loop asks of whoever computes a step: the same for whole models and for parts of one.

compute    this worker's micro-batches, and the sums of all workers
apply      the step counts: change the weights
abandon    it does not: all is as before
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from manyhands.collective import Block
from manyhands.plan import Plan
from manyhands.sync import Finished, OnWait, Round
from manyhands.timeline import Recorder
from manyhands.training.evaluate import Share
from manyhands.training.feed import Feed
from manyhands.training.learner import Learner
from manyhands.transport import Group


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What steps are computed with."""

    learner: Learner
    feed: Feed
    recorder: Recorder
    tables: Path | None
    """The folder of the files that hold the rows of the model's sparse tables."""
    audit: int = 0
    """One micro-batch in so many is computed by a second replica, too (audit.py); 0: none is."""


class StepComputer(Protocol):
    """One worker's side of a step."""

    @property
    def joined(self) -> bool:
        """Whether the worker has a place in a gang, which may be one of its own."""
        ...

    @property
    def agreed(self) -> int:
        """The last step after which all replicas were seen to hold the same; -1: none yet, or nobody looks."""
        ...

    @property
    def cuts(self) -> tuple[int, ...]:
        """The first unit of every stage, where the model is cut."""
        ...

    @property
    def blocks(self) -> Sequence[Block]:
        """The micro-batches of every batch that each worker, or replica, computes."""
        ...

    @property
    def block(self) -> Block:
        """The micro-batches of every batch that this worker computes."""
        ...

    @property
    def frame(self) -> Block:
        """The micro-batches whose losses a step knows."""
        ...

    def join(self, group: Group | None, plan: Plan, on_wait: OnWait, cuts: Sequence[int] | None) -> str:
        """Take a place in a gang. Returns how gradients travel and why, in words."""
        ...

    def leave(self) -> None:
        """Leave the gang, keeping the state at the last step boundary. May be called twice."""
        ...

    def compute(self, flag: Callable[[], int]) -> Finished:
        """Compute and exchange a step; what fails is abandoned.

        Args:
            flag: asked once, just before the exchange.
        """
        ...

    def apply(self, finished: Finished) -> float | None:
        """Apply the step. Returns the norm of the whole gradient, if the job clips it.

        Raises:
            NotFiniteError: the norm is not finite; nothing has been applied.
        """
        ...

    def abandon(self) -> None:
        """Undo a step that was computed and is not to be applied."""
        ...

    def agrees_after(self, step: int) -> bool:
        """Whether the gang agrees as a whole after so many steps."""
        ...

    def agree(self, figures: Round) -> Round:
        """Have the gang agree. Returns what it knows of the steps since the last time."""
        ...

    def arrive(self) -> None:
        """All weights must be there: somebody looks at them."""
        ...

    @property
    def share(self) -> Share:
        """The batches of an evaluation that this worker computes."""
        ...

    def room(self, samples: int) -> int | None:
        """The size of batch that `infer` takes for so many samples; None: it takes none that is large enough."""
        ...

    def computing(self) -> AbstractContextManager[Any]:
        """What a forward pass runs in, and what is made of its output."""
        ...

    def infer(self, inputs: Any) -> Any:
        """The model's output for a batch; None where it is elsewhere."""
        ...

    def capture(self) -> dict[str, Any]:
        """The whole state, as a tree that looks at the live tensors; of parts, on rank 0 alone."""
        ...

    def restore(self, state: dict[str, Any], keep: bool) -> None:
        """Put a captured state back."""
        ...

    def weights_sha256(self) -> str:
        """The digest of the whole model's weights."""
        ...


MakeSteps = Callable[[Setting, Plan], StepComputer]
