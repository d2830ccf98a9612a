"""What the tests of tables share: a table in plain memory, to compare with."""

from __future__ import annotations

import copy

import numpy as np
import torch

from manyhands.tables import RowAdagrad, TableFile, TableSpec
from manyhands.tables.initial import initial_rows


def spec_of(rows: int = 50, width: int = 4, optimizer=None, seed: int = 5, std: float = 0.1) -> TableSpec:
    return TableSpec(rows=rows, width=width, optimizer=optimizer or RowAdagrad(lr=0.1), seed=seed, std=std)


class MemoryTable:
    """All rows in memory, and a copy of them for every mark."""

    def __init__(self, spec: TableSpec) -> None:
        self.spec = spec
        self.values = initial_rows(np.arange(spec.rows), spec.width, spec.seed, spec.std)
        width = spec.optimizer.state_width(spec.width)
        self.state = np.full((spec.rows, width), spec.optimizer.initial_state, np.float32)
        self.marks: dict[int, tuple] = {}

    def update(self, ids: torch.Tensor, grads: torch.Tensor, scale: float = 1.0) -> None:
        places = ids.numpy()
        values, state = self.values[places], self.state[places]
        self.spec.optimizer.update(values, state, grads.numpy(), scale)
        self.values[places], self.state[places] = values, state

    def mark(self, step: int) -> None:
        self.marks[step] = copy.deepcopy((self.values, self.state))

    def roll_back(self, step: int) -> None:
        self.values, self.state = copy.deepcopy(self.marks[step])
        self.marks = {s: kept for s, kept in self.marks.items() if s <= step}


def some_rows(random: np.random.Generator, rows: int, width: int, most: int = 20, step: int = 1, first: int = 0):
    """Ids, each once, in any order, and gradients. Only ids that are `first` modulo `step`."""
    mine = np.arange(first, rows, step)
    ids = random.choice(mine, size=random.integers(0, min(most, len(mine)) + 1), replace=False)
    grads = random.standard_normal((len(ids), width), np.float32)
    return torch.from_numpy(ids), torch.from_numpy(grads)


def content(file: TableFile) -> bytes:
    """Values of all rows."""
    return file.read(torch.arange(file.spec.rows)).numpy().tobytes()


def states(file: TableFile) -> dict[int, bytes]:
    """The optimizer's state of all rows that were changed."""
    return {
        i: state.numpy().tobytes()
        for rows, part in file.changed()
        for i, state in zip(rows.ids.tolist(), part, strict=True)
    }


def same(file: TableFile, table: MemoryTable) -> None:
    assert content(file) == table.values.tobytes()
    for i, state in states(file).items():
        assert state == table.state[i].tobytes()
