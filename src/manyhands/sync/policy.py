"""When replicas agree: a policy over one step (law 4).

A policy is one worker's side of an agreement among the gang. The trainer computes gradients and asks it, step by step,

    before_forward()    what must have arrived before the next forward pass
    sink                where gradients go, bucket by bucket, as the last backward pass yields them
    update(replica)     after the exchange: by default the replica applies what is now its gradient
    agree(replica)      at the end of a round of `agrees_after` steps
    capture, restore    what it adds to a snapshot

and nothing else of the trainer knows which policy it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from torch import Tensor, nn
from torch.optim import Optimizer

from manyhands.collective import Block, Fold, assign_blocks, fold, leaves
from manyhands.errors import UserError
from manyhands.sync.balance import Balance
from manyhands.sync.tables import OwnTables, TableSide
from manyhands.sync.waiting import OnWait, wait_for
from manyhands.transport import Group

if TYPE_CHECKING:
    from manyhands.tables import SparseTable

T = TypeVar("T")


class Piece(NamedTuple):
    """A tensor of a sink, or a run of its elements."""

    tensor: int
    start: int = 0
    stop: int | None = None
    """The end of the run of elements; None: the whole tensor, in its shape."""

    def of(self, tensor: Tensor) -> Tensor:
        return tensor if self.stop is None else tensor.reshape(-1)[self.start : self.stop]


class Sink(Protocol):
    """Takes a worker's finished subtrees and gives sums for them."""

    outputs: list[list[Tensor]]
    """`outputs[subtree][item]`: write them here."""
    pieces: Sequence[Piece]
    """What each item is."""
    buckets: list[list[int]]
    """The items that go together."""

    def announce(self, bucket: int) -> None:
        """This worker's subtrees of the bucket are written."""
        ...

    def finish(self, facts: bytes) -> list[bytes]:
        """Wait until all that was announced has gone; returns everyone's facts, in rank order."""
        ...

    def total(self, item: int) -> Tensor | None:
        """The sum of an item, after `finish`; None if it stays elsewhere."""
        ...


class Replica(Protocol):
    """What a policy sees of a trainer."""

    model: nn.Module
    optimizer: Optimizer

    def apply(self, losses: Sequence[float]) -> float | None:
        """Clip the gradient that lies in `.grad`, apply it, move the schedule on. Returns its norm, if clipped."""
        ...

    def check_norm(self, norm: float) -> None:
        """Raise if the norm is not finite."""
        ...

    def move(self) -> None:
        """Have the optimizer apply its parameters' gradients."""
        ...

    def advance(self, losses: Sequence[float]) -> None:
        """Move the schedule on."""
        ...


class Finished(NamedTuple):
    """What all workers know after the exchange."""

    losses: list[float]
    """Losses of every micro-batch of the step, in order; with local steps, of this worker's."""
    flags: list[int]
    """The flag that each process passed, in rank order."""
    seconds: Sequence[float | None] = ()
    """Seconds that a micro-batch took each worker."""
    before: float = 0.0
    """Seconds that the step before this one took all workers."""
    unused: frozenset[int] = frozenset()
    """Parameters that got no gradient from anybody, as numbered for the sink."""
    others: Mapping[str, str] = MappingProxyType({})
    """What micro-batch 0 left in buffers that are not averaged (training/steps/buffers.py)."""
    looks: Sequence[Mapping[str, Any]] = ()
    """What each worker told so that others can compare (training/steps/alike.py), in rank order."""


class Task(NamedTuple):
    """What of a job a policy needs to know."""

    micro_batches: int
    reproducible: bool
    clip_grad_norm: float | None = None
    balance: bool = False
    """Whether faster workers get more micro-batches."""


class Round(NamedTuple):
    """A worker's figures of the steps since the last agreement; after it, the gang's."""

    losses: list[float]
    norms: list[float | None]
    flags: list[tuple[int, ...]]


class Policy:
    """The side of a worker that is alone; the base of all.

    Args:
        task: the job's numbers.
        gang: all workers; None for one that is alone.
        on_wait: told when the worker has to wait for others.

    Attributes:
        blocks: by rank, the micro-batches of every batch that it computes.
        described: how gradients travel and why, in words.
    """

    brings_weights = False
    """Whether weights may arrive from others during a forward pass."""

    def __init__(self, task: Task, gang: Group | None, on_wait: OnWait = lambda waits: None) -> None:
        self.task, self.gang, self._on_wait = task, gang, on_wait
        self.rank, self.world = (gang.rank, gang.world) if gang else (0, 1)
        self.blocks = self._placed(assign_blocks(task.micro_batches, self.workers))
        self._balance = self._make_balance() if task.balance and self.workers > 1 else None
        self.described = ""

    def _make_balance(self) -> Balance:
        total, reproducible = self.task.micro_batches, self.task.reproducible

        def pieces(blocks: Sequence[Block]) -> int:
            return sum(len(block.pieces(total)) for block in blocks) if reproducible else len(blocks)

        return Balance(self.blocks[: self.workers], pieces)

    @property
    def workers(self) -> int:
        """How many of the gang compute; they have the first ranks."""
        return self.world

    @property
    def block(self) -> Block:
        """The micro-batches that this worker computes."""
        return self.blocks[self.rank]

    @property
    def frame(self) -> Block:
        """The micro-batches over which this worker's gradient is the mean."""
        return Block(0, self.task.micro_batches)

    @property
    def fold(self) -> Fold:
        """The order in which this worker adds up its block."""
        first = self.frame.start
        return fold(leaves(self.block.start - first, self.block.stop - first), self.frame.size)

    @property
    def sums_buffers(self) -> bool:
        """Whether the changes of buffers are summed though the gradient is that of a single micro-batch."""
        return False

    def open(self, params: Sequence[Tensor], buffers: Sequence[Tensor]) -> Sink | None:
        """A sink for gradients of these parameters, in the order in which backward yields them, and for changes of
        these buffers. None: the sums stay where they are made."""
        return None

    def open_tables(self, tables: Mapping[str, SparseTable], folder: Path | None, step: int) -> TableSide:
        """This process's part of the model's tables, as they are after `step` steps.

        Raises:
            UserError: the policy has no place for their rows.
        """
        if self.world > 1:
            raise UserError(
                f"the model has tables ({', '.join(tables)}), and {self.world} workers have no common place for their "
                "rows. Use --sync server, or one worker."
            )
        return OwnTables(tables, folder, step, ([self.block.pieces(self.task.micro_batches)], self.task.micro_batches))

    def arrive(self) -> None:
        """All weights must be there: somebody looks at them."""

    def before_forward(self) -> None:
        """The first forward pass of a step comes next: what it needs must be there when it needs it."""
        self.arrive()

    def update(self, replica: Replica, finished: Finished) -> float | None:
        """The step's sums are there. Returns the norm of the whole gradient, if it is clipped."""
        return replica.apply(finished.losses)

    def learn(self, finished: Finished) -> bool:
        """Learn from the times of the step that was just applied. Whether blocks change, so that another sink must be
        opened."""
        if self._balance is None:
            return False
        blocks = self._balance.learn([s for s in finished.seconds if s is not None], finished.before)
        if blocks is not None:
            self.blocks = self._placed(blocks)
        return blocks is not None

    def agrees_after(self, step: int) -> bool:
        """Whether a round ends with this step."""
        return True

    def agree(self, replica: Replica, figures: Round) -> Round:
        """The round has ended. Returns what the gang knows of its steps."""
        return figures

    def capture(self, state: dict[str, Any]) -> dict[str, Any]:
        """A captured state with what the policy adds. All workers call it if `Sync.divides`; rank 0's is whole."""
        return state

    def restore(self, replica: Replica, kept: Mapping[str, Any]) -> None:
        """Take up what `capture` added, before the first step."""

    def close(self) -> None:
        """Leave the gang."""
        if self.gang is not None:
            self.gang.close()

    def _placed(self, blocks: Sequence[Block]) -> tuple[Block, ...]:
        """The blocks of the workers, and what is left, which is nothing, for every process that comes after them."""
        nothing = Block(self.task.micro_batches, self.task.micro_batches)
        return (*blocks, *[nothing] * (self.world - self.workers))

    def _wait(self, future: Future[T]) -> T:
        return wait_for(future, self._on_wait)
