"""What a worker computes on: the one place where data is read.

The cursor (cursor.py) says which samples a micro-batch has, whoever computes it. Reading begins with the generators
where the micro-batch's own stream begins, and leaves them where the forward pass goes on. A worker reads what nobody
hands it (passing.py), and that once: its stages share a micro-batch, and the sample by which a model is recorded is the
first micro-batch of the job.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.utils._pytree import tree_map

from manyhands.errors import JobError
from manyhands.job import Job
from manyhands.training.batch import fetch
from manyhands.training.cursor import sample_indices
from manyhands.training.passing import Passing, Route
from manyhands.training.seeds import Generators, seed_everything, stream_seed
from manyhands.transport import Group


class Batch(NamedTuple):
    """Samples, stacked and on the device."""

    inputs: Any
    targets: Any
    """The targets; None on a worker that is handed what others read and takes no targets."""


@dataclass
class _Kept:
    """A batch that is wanted more than once."""

    batch: Batch
    drawn: Generators | None
    """The state in which reading has left the generators, if it drew from them."""
    uses: int


class Feed:
    """Reads a job's data for one worker.

    Args:
        job: whose data.
        device: where batches are put.

    Attributes:
        data: the training data.
        samples: how many there are.

    Raises:
        JobError: `data` returns what is no dataset.
    """

    def __init__(self, job: Job, device: torch.device) -> None:
        self._job, self._device = job, device
        self._seed_data()
        self.data = job.data()
        self.samples = count_samples(self.data, "data")
        self._evaluation: Any = None
        self._passing: Passing | None = None
        self._uses = 1
        self._kept: dict[tuple[int, int], _Kept] = {}

    def pass_on(self, passing: Passing | None, uses: int = 1) -> None:
        """Hand batches on, or be handed them, from now on.

        Args:
            uses: how often every micro-batch of a step is asked for here, by the worker's stages.
        """
        self._passing, self._uses = passing, uses
        for kept in self._kept.values():
            kept.uses = uses

    def micro_batch(self, step: int, index: int) -> Batch:
        """A micro-batch of the step after `step` steps. Leaves the generators where its forward pass begins.

        Raises:
            UserError: the data does not give samples of one form.
            PeerLostError: the worker that hands batches on is gone.
        """
        job, place = self._job, (step, index)
        seed_everything(stream_seed(job.seed, step, index), self._device)
        kept = self._kept.get(place)
        if kept is None:
            start = step * job.batch_size + index * job.micro_batch_size
            indices = sample_indices(job.seed, self.samples, start, job.micro_batch_size)
            kept = self._read(self.data, indices, self._uses)
            if kept.uses > 1:
                self._kept[place] = kept
        elif kept.drawn is not None:
            kept.drawn.write(self._device)
        kept.uses -= 1
        if kept.uses:  # a forward pass may change its inputs in place
            return clone(kept.batch)
        self._kept.pop(place, None)
        return kept.batch

    def forget(self, step: int) -> None:
        """The step after `step` steps begins: what was kept for another one is void."""
        self._kept = {place: kept for place, kept in self._kept.items() if place[0] == step}

    def first(self, gang: Group, mine: bool) -> Batch:
        """The first micro-batch of the job, to record the model by: read on rank 0 alone, which hands it to all others.
        Collective.

        Args:
            mine: it is one of this worker's own, too: keep it for the first step.
        """
        others = tuple(range(1, gang.world))
        self._passing = Passing(gang, Route(takers=others) if gang.rank == 0 else Route(giver=0), self._device)
        try:
            self._uses = 2
            batch = self.micro_batch(0, 0)
        finally:
            self._passing, self._uses = None, 1
        if not mine:
            self._kept.clear()
        return batch

    def evaluation_samples(self) -> int:
        """How many samples there are to evaluate on.

        Raises:
            JobError: `evaluate.data` returns what is no dataset.
        """
        return count_samples(self.evaluation_data(), "evaluate.data")

    def evaluation(self, number: int, indices: Sequence[int]) -> Batch:
        """A batch of the data to evaluate on. Leaves the generators where its forward pass begins.

        Args:
            number: of the batch, which has a stream of its own.
        """
        data = self.evaluation_data()
        seed_everything(stream_seed(self._job.seed, "evaluate", number), self._device)
        return self._read(data, indices, 1).batch

    def evaluation_data(self) -> Any:
        """The dataset to evaluate on, built when it is first asked for."""
        if self._evaluation is None:
            assert self._job.evaluate is not None
            self._seed_data()
            self._evaluation = self._job.evaluate.data()
        return self._evaluation

    def _seed_data(self) -> None:
        """Both datasets are built from one stream, whatever the model drew: where both split the same data at random,
        what one holds is not in the other."""
        seed_everything(stream_seed(self._job.seed, "data"), self._device)

    def _read(self, data: Any, indices: Sequence[int], uses: int) -> _Kept:
        """Read a batch, or be handed it; hand it on."""
        passing = self._passing
        if passing is not None and passing.route.giver is not None:
            taken = passing.take()
            drawn = Generators.from_tree(taken["drawn"]) if taken["drawn"] is not None else None
            if drawn is not None:
                drawn.write(self._device)
            batch = Batch(taken["inputs"], taken["targets"])
        elif passing is None or not (passing.route.takers or uses > 1):
            return _Kept(Batch(*fetch(data, list(indices), self._device)), None, uses)
        else:
            before = Generators.read(self._device)
            batch = Batch(*fetch(data, list(indices), self._device))
            after = Generators.read(self._device)
            drawn = after if after.moved_from(before) else None
        if passing.route.takers:
            targets = batch.targets if passing.route.takers_targets else None
            told = drawn.as_tree() if drawn is not None else None
            passing.give({"inputs": batch.inputs, "targets": targets, "drawn": told})
        return _Kept(batch if passing.route.targets else Batch(batch.inputs, None), drawn, uses)


def clone(value: Any) -> Any:
    """A copy of a batch, or a part of one, for who may change it."""
    return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, torch.Tensor) else leaf, value)


def count_samples(data: Any, name: str) -> int:
    """How many samples a dataset has.

    Raises:
        JobError: it is no dataset, or empty.
    """
    if not hasattr(data, "__len__") or not hasattr(data, "__getitem__"):
        raise JobError(
            f"{name}() must return a map-style dataset with __len__ and __getitem__; it returned a "
            f"{type(data).__name__}."
        )
    if len(data) == 0:
        raise JobError(f"{name}() returned an empty dataset. Check the path or the filter that it is built with.")
    return len(data)
