"""The tables of a model in a training: gradients of rows, folded like all others, and a place for the rows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from manyhands.sync import Policy
from manyhands.tables import RowSum, SparseTable


class Tables:
    """A model's tables under one policy.

    Args:
        tables: by name; none is the usual case.
        folder: where their files are, on processes that have any.
        step: steps that they are to have seen.
    """

    def __init__(self, tables: Mapping[str, SparseTable], policy: Policy, folder: Path | None, step: int) -> None:
        self._tables, self._policy = tables, policy
        self._side = policy.open_tables(tables, folder, step) if tables else None
        self._sums: dict[str, RowSum] = {}

    def begin_step(self) -> None:
        self._sums = {name: RowSum(self._policy.fold) for name in self._tables}
        for table in self._tables.values():
            table.take()

    def end_micro_batch(self, micro_batch: int) -> None:
        """Backward is done: take the gradients of the rows that it used."""
        for name, table in self._tables.items():
            self._sums[name].push(micro_batch - self._policy.block.start, table.take())

    def finish(self) -> None:
        """All micro-batches are done: hand the sums over."""
        if self._side is not None:
            self._side.push({name: total.pieces() for name, total in self._sums.items()})

    def apply(self) -> None:
        """The step counts: change the rows."""
        if self._side is not None:
            self._side.apply()

    def keep(self, step: int) -> None:
        """Rows can be had again as they are now, after `step` steps."""
        if self._side is not None:
            self._side.keep(step)

    def close(self, step: int) -> None:
        """Give the tables' files up. May be called twice."""
        if self._side is not None:
            self._side.close(step)
            self._side = None
