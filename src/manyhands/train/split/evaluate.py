"""Evaluation where the model is split: the parts compute forward alone, one chunk of samples after another.

Stages pass on tensors of the micro-batch's size, so samples come in chunks of it, and the last chunk is filled up with
samples whose results are dropped.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from manyhands.errors import JobError
from manyhands.train.trainer import evaluating

if TYPE_CHECKING:
    from manyhands.train.split.trainer import SplitTrainer


def evaluate(trainer: SplitTrainer) -> dict[str, float]:
    """As `Trainer.evaluate`, by all workers together. A metric is weighted by the samples of its chunk."""
    evaluation, job = trainer.job.evaluate, trainer.job
    if evaluation is None:
        raise JobError("the job has nothing to evaluate: give it evaluate=Evaluation(...).")
    trainer.recorder.enter("evaluate")
    samples, size = trainer.feed.evaluation_samples(), job.micro_batch_size
    measure = {"loss": job.loss, **evaluation.metrics}
    chunks, replicas, replica = -(-samples // size), trainer.layout.dp, trainer.place.replica
    rounds = -(-chunks // replicas)  # as many on every replica: sharded ones compute together
    rows = []
    with evaluating(trainer.model), torch.no_grad():
        for index in range(replica * rounds, (replica + 1) * rounds):
            trainer.recorder.enter("evaluate", index)
            count = max(0, min(size, samples - index * size))
            indices = [min(index * size + i, samples - 1) for i in range(size)]
            inputs, targets = trainer.feed.evaluation(index, indices)
            with trainer.computing():
                output = trainer.infer(inputs)
                if output is not None and count and trainer.place.shard == 0:
                    output, targets = _first(output, count, size), _first(targets, count, size)
                    rows.append([count, *(float(metric(output, targets)) for metric in measure.values())])
    assert trainer.group is not None
    gathered = trainer.group.all_gather_bytes(json.dumps(rows).encode())
    rows = [row for part in gathered for row in json.loads(part)]
    return {name: math.fsum(row[0] * row[column] for row in rows) / samples for column, name in enumerate(measure, 1)}


def _first(value: Any, count: int, size: int) -> Any:
    """The first samples of a batch."""
    if count == size:
        return value

    def cut(leaf: Any) -> Any:
        return leaf[:count] if isinstance(leaf, Tensor) and leaf.ndim and leaf.shape[0] == size else leaf

    return tree_map(cut, value)
