"""The rows of all tables of one process, in files of its own: training alone, evaluation, tests.

with LocalStore(tables_of(model), folder) as store:
    loss(model(inputs), targets).backward()
    store.step({name: table.take() for name, table in tables.items()})
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from manyhands.tables.file import TableFile
from manyhands.tables.layer import SparseTable
from manyhands.tables.sums import Rows


class LocalStore:
    """Opens a file for each table and attaches itself to the layers.

    Args:
        tables: by name.
        folder: where the files are, one `NAME.table` each, unless a table names its own.
        resident: bytes of each file that may be mapped before they are dropped from the resident set.

    Attributes:
        files: by name.

    Raises:
        TableError: a file is another table's, in use or damaged, or the disk is full.
    """

    def __init__(self, tables: Mapping[str, SparseTable], folder: Path, resident: int = 1 << 30) -> None:
        self.files: dict[str, TableFile] = {}
        try:
            for name, table in tables.items():
                self.files[name] = TableFile(table_path(table, name, folder), table.spec, resident=resident)
        except BaseException:
            self.close()
            raise
        for name, table in tables.items():
            table.attach(name, self)

    def read(self, table: str, ids: Tensor) -> Tensor:
        """The rows `ids` of a table, as a new tensor."""
        return self.files[table].read(ids)

    def step(self, totals: Mapping[str, Rows], scale: float = 1.0) -> None:
        """Apply gradients, table by table, at `scale` times the tables' own learning rates.

        Raises:
            TableError: the disk is full; tables before the one it names have changed.
        """
        for name, rows in totals.items():
            self.files[name].update(rows.ids, rows.values, scale)

    def mark(self, step: int) -> None:
        """Begin an epoch in every table, to which `roll_back` can go."""
        for file in self.files.values():
            file.mark(step)

    def forget(self, before_step: int) -> None:
        """Drop what only earlier steps need."""
        for file in self.files.values():
            file.forget(before_step)

    def sync(self) -> None:
        """Have the disk keep all tables."""
        for file in self.files.values():
            file.sync()

    def close(self) -> None:
        """Sync and close all files."""
        while self.files:
            self.files.popitem()[1].close()

    def __enter__(self) -> LocalStore:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def table_path(table: SparseTable, name: str, folder: Path) -> Path:
    """The file of a table of that name."""
    return table.file or folder / f"{name}.table"
