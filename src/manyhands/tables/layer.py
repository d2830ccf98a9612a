"""An embedding layer whose rows are elsewhere: it fetches those that a micro-batch uses, and keeps their gradient
apart.

    table = SparseTable(rows=10**9, width=16, optimizer=RowAdagrad(lr=0.05))
    table(ids)             # [...] -> [..., 16]; after backward:
    table.take()           # Rows(ids, values): this micro-batch's gradient

The layer has no parameter, so the model's optimizer, its state dict and its checkpoints stay small. Each forward pass
in training makes a leaf tensor of the rows that it uses, each once; backward adds up the gradients of a row that is
used several times in the order of its uses, and `take` adds up those of several forward passes in theirs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manyhands.errors import UsageError, UserError
from manyhands.tables.optimizers import RowOptimizer
from manyhands.tables.spec import TableSpec
from manyhands.tables.sums import Rows, add, no_rows


class RowStore(Protocol):
    """Where a layer's rows are."""

    def read(self, table: str, ids: Tensor) -> Tensor:
        """The rows `ids` (int64 [n], sorted, each once) of a table as an fp32 tensor [n, width] of the caller's own."""
        ...


class RowIdError(UserError, IndexError):
    """An id that is no row of the table."""


class SparseTable(nn.Module):
    """A table of `rows` x `width` values, as `nn.Embedding` is one, that may exceed memory.

    Args:
        rows: ids are 0 to `rows` - 1; rows that are never used take no space.
        width: values per row.
        optimizer: how a row is changed by its gradient.
        std: standard deviation of the initial values; `nn.Embedding` has 1.
        seed: of the initial values; None draws one from torch's generator, which the job's seed has seeded.
        padding_idx: this id gives zeros and gets no gradient.
        name: the table's name for stores; None takes the layer's path in the model.
        file: where a store that keeps files on this machine puts the rows; None leaves it to the store.

    Raises:
        UsageError: a value is out of range.
    """

    def __init__(
        self,
        *,
        rows: int,
        width: int,
        optimizer: RowOptimizer,
        std: float = 1.0,
        seed: int | None = None,
        padding_idx: int | None = None,
        name: str | None = None,
        file: Path | None = None,
    ) -> None:
        super().__init__()
        seed = int(torch.randint(2**63 - 1, (), device="cpu")) if seed is None else seed
        self.spec = TableSpec(rows=rows, width=width, optimizer=optimizer, seed=seed, std=std)
        self.name, self.file, self.padding_idx = name, file, padding_idx
        if padding_idx is not None and not 0 <= padding_idx < rows:
            raise UsageError(f"padding_idx={padding_idx} is no row of a table of {rows} rows.")
        self._store: RowStore | None = None
        self._used: list[tuple[Tensor, Tensor]] = []

    def attach(self, name: str, store: RowStore | None) -> None:
        """Look rows up in `store` from now on, under this name."""
        self.name, self._store = name, store
        self._used.clear()

    def forward(self, ids: Tensor) -> Tensor:
        """The rows of integer ids of any shape [...]: fp32 [..., width] on the ids' device.

        Raises:
            RowIdError: an id is out of range.
            UserError: no store is attached.
        """
        return self._look_up(ids)

    def take(self) -> Rows:
        """The gradient since the last call, each id once, on the CPU; forgets it. Only rows through which a backward
        pass went are there."""
        total: Rows | None = None
        for ids, rows in self._used:
            if rows.grad is not None:
                gradient = self._without_padding(ids, rows.grad.cpu())
                total = gradient if total is None else add(total, gradient)
        self._used.clear()
        return no_rows(self.spec.width) if total is None else total

    def extra_repr(self) -> str:
        return f"{self.spec.rows}, {self.spec.width}, optimizer={self.spec.optimizer}"

    @torch.compiler.disable
    def _look_up(self, ids: Tensor) -> Tensor:
        if self._store is None or self.name is None:
            raise UserError(
                f"the table {self.name or ''} of {self.spec.rows} rows has no store to read them from. Attach one, for "
                "example with manyhands.tables.LocalStore(tables_of(model), folder)."
            )
        unique, places = torch.unique(ids.detach().cpu().long(), return_inverse=True)
        self._check(unique)
        rows = self._store.read(self.name, unique).to(ids.device)
        if self.padding_idx is not None:
            rows[(unique == self.padding_idx).to(ids.device)] = 0.0
        if self.training and torch.is_grad_enabled():
            rows.requires_grad_()
            self._used.append((unique, rows))
        return F.embedding(places.to(ids.device), rows)

    def _check(self, unique: Tensor) -> None:
        if not len(unique):
            return
        for wrong in (int(unique[0]), int(unique[-1])):
            if not 0 <= wrong < self.spec.rows:
                raise RowIdError(
                    f"table {self.name} has {self.spec.rows} rows, 0 to {self.spec.rows - 1}, and was asked for row "
                    f"{wrong}. Check the ids in the data, or give the table more rows."
                )

    def _without_padding(self, ids: Tensor, values: Tensor) -> Rows:
        if self.padding_idx is None:
            return Rows(ids, values)
        kept = ids != self.padding_idx
        return Rows(ids[kept], values[kept])


def tables_of(model: nn.Module) -> dict[str, SparseTable]:
    """All tables of a model by name, in the order of its modules.

    Raises:
        UsageError: two have the same name.
    """
    found: dict[str, SparseTable] = {}
    for path, module in model.named_modules():
        if isinstance(module, SparseTable):
            name = module.name or path or "table"
            if name in found:
                raise UsageError(f"two tables of the model are named {name!r}. Give one of them another name.")
            found[name] = module
    return found
