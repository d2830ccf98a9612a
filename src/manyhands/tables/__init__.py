"""Embedding tables that may exceed memory: rows in mapped files, row-wise optimizers, sparse sums."""

from manyhands.tables.file import TableFile
from manyhands.tables.layer import RowIdError, RowStore, SparseTable, tables_of
from manyhands.tables.optimizers import RowAdagrad, RowAdam, RowOptimizer, RowSGD
from manyhands.tables.rollback import marks, roll_back
from manyhands.tables.spec import TableError, TableSpec
from manyhands.tables.store import LocalStore, table_path
from manyhands.tables.sums import Rows, RowSum, add, combine, divide, no_rows

__all__ = [
    "LocalStore",
    "RowAdagrad",
    "RowAdam",
    "RowIdError",
    "RowOptimizer",
    "RowSGD",
    "RowStore",
    "RowSum",
    "Rows",
    "SparseTable",
    "TableError",
    "TableFile",
    "TableSpec",
    "add",
    "combine",
    "divide",
    "marks",
    "no_rows",
    "roll_back",
    "table_path",
    "tables_of",
]
