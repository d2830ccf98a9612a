"""The loss and the metrics on data that is held out, the same on any layout.

The data is cut in order into batches of the evaluation's own size, and the last may be smaller. Batches are shared out
among the places of a gang that compute by themselves: workers, or replicas of a split model. Each batch's means are
weighted by its samples and summed exactly, so the figures do not depend on who computed what.

A pipeline takes batches of the sizes for which its stages were made. A smaller one is filled up with copies of its last
sample, whose results are dropped; one that is larger than all of them is refused before the first step.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from manyhands.errors import JobError, UserError
from manyhands.job import Evaluation, Job
from manyhands.parallel.modes import evaluating
from manyhands.training.feed import Batch, Feed
from manyhands.transport import Group


class Share(NamedTuple):
    """Which of the batches one worker evaluates."""

    place: int
    places: int
    speaks: bool = True
    """Whether the worker tells the figures; others of its place compute the same."""
    together: bool = False
    """Whether all places compute equally often, because they compute together."""

    def of(self, batches: int) -> range:
        """The numbers of this worker's batches."""
        first, last = min(self.place, self.places), min(self.place + 1, self.places)
        return range(batches * first // self.places, batches * last // self.places)

    def rounds(self, batches: int) -> int:
        """How many times the worker computes."""
        return -(-batches // self.places) if self.together else len(self.of(batches))


class Inferring(Protocol):
    """What evaluation asks of what holds the model."""

    @property
    def share(self) -> Share:
        """The batches that this worker evaluates."""
        ...

    def room(self, samples: int) -> int | None:
        """The size of batch that the model takes for so many samples; None: it takes none that is large enough."""
        ...

    def computing(self) -> AbstractContextManager[Any]:
        """What a forward pass runs in, and what is made of its output."""
        ...

    def infer(self, inputs: Any) -> Any:
        """The model's output for a batch; None where it is elsewhere."""
        ...


def evaluate(
    job: Job,
    feed: Feed,
    model: nn.Module,
    inferring: Inferring,
    group: Group | None,
    enter: Callable[[str, int], None],
) -> dict[str, float]:
    """Evaluate a model, together with all others of the group.

    Args:
        model: is in evaluation mode meanwhile.
        enter: told which batch comes next.

    Raises:
        JobError: the job has no evaluation.
        PeerLostError: a worker was lost.
    """
    evaluation = _evaluation(job)
    samples = feed.evaluation_samples()
    measure = {"loss": job.loss, **evaluation.metrics}
    rows = []
    with evaluating(model) as afresh, torch.no_grad():
        for count, batch in _batches(evaluation, job, feed, inferring, samples, enter):
            afresh()  # whoever computes it, a batch begins with the buffers that training has left
            output = inferring.infer(batch.inputs)
            if output is None or not count or not inferring.share.speaks:
                continue
            size = inferring.room(count) or count
            output, targets = first(output, count, size), first(batch.targets, count, size)
            with inferring.computing():
                rows.append([count, *(float(metric(output, targets)) for metric in measure.values())])
    if group is not None:
        gathered = group.all_gather_bytes(json.dumps(rows).encode())
        rows = [row for part in gathered for row in json.loads(part)]
    return {name: math.fsum(row[0] * row[column] for row in rows) / samples for column, name in enumerate(measure, 1)}


def check(job: Job, feed: Feed, room: Callable[[int], int | None]) -> None:
    """Refuse an evaluation that cannot be computed, before the first step.

    Raises:
        UserError: no batch of the evaluation's size can be computed; says which can.
    """
    if job.evaluate is None:
        return
    size = min(_size(job.evaluate, job), feed.evaluation_samples())
    if room(size) is None:
        raise UserError(
            f"evaluate.batch_size is {size}, and the stages of this model cannot be made for other batches than "
            f"those of training, which have {job.micro_batch_size} samples: it is cut as a graph of operators, or "
            "elsewhere in evaluation. Set evaluate.batch_size to that or less, or use a layout without pp."
        )


def sizes(job: Job, feed: Feed) -> list[int]:
    """The sizes of the batches of an evaluation, where they are not all of a micro-batch's."""
    if job.evaluate is None:
        return []
    samples = feed.evaluation_samples()
    size = min(_size(job.evaluate, job), samples)
    return [found for found in (size, samples % size) if found not in (0, job.micro_batch_size)]


def _batches(
    evaluation: Evaluation,
    job: Job,
    feed: Feed,
    inferring: Inferring,
    samples: int,
    enter: Callable[[str, int], None],
) -> Iterator[tuple[int, Batch]]:
    """The worker's batches, and how many samples of each count. A place that has none left, where all compute together,
    computes its last one again, and none of it counts."""
    size = _size(evaluation, job)
    share, batches = inferring.share, -(-samples // size)
    mine, batch = share.of(batches), None
    for turn in range(share.rounds(batches)):
        number, again = (mine[turn], False) if turn < len(mine) else (max(0, mine.stop - 1), True)
        enter("evaluate", number)
        count = min(size, samples - number * size)
        if batch is None or not again:
            filled = inferring.room(count) or count
            indices = [number * size + min(place, count - 1) for place in range(filled)]
            batch = feed.evaluation(number, indices)
        yield 0 if again else count, batch


def _evaluation(job: Job) -> Evaluation:
    if job.evaluate is None:
        raise JobError("the job has nothing to evaluate: give it evaluate=Evaluation(...).")
    return job.evaluate


def _size(evaluation: Evaluation, job: Job) -> int:
    return evaluation.batch_size or job.micro_batch_size


def first(value: Any, count: int, size: int) -> Any:
    """The first samples of a batch."""
    if count == size:
        return value

    def cut(leaf: Any) -> Any:
        return leaf[:count] if isinstance(leaf, Tensor) and leaf.ndim and leaf.shape[0] == size else leaf

    return tree_map(cut, value)
