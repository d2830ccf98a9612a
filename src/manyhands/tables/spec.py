"""What a table is: its size, its optimizer, and where its rows begin. Plain data, free of torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from manyhands.errors import UsageError, UserError
from manyhands.tables.optimizers import RowOptimizer, optimizer_from_json, optimizer_to_json


class TableError(UserError):
    """A table's file is another table's, damaged, in use, or the disk is full."""


@dataclass(frozen=True, kw_only=True)
class TableSpec:
    """A table of `rows` x `width` fp32 values."""

    rows: int
    """Rows, used or not: those that nobody uses take no space."""
    width: int
    """Values per row."""
    optimizer: RowOptimizer
    """How a row is changed by its gradient."""
    seed: int
    """Seed of the initial values."""
    std: float = 1.0
    """Standard deviation of the initial values; `nn.Embedding` has 1."""

    def __post_init__(self) -> None:
        for name in ("rows", "width"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UsageError(f"a table's {name} must be a whole number of at least 1; it is {value!r}.")
        if not math.isfinite(self.std) or self.std < 0:
            raise UsageError(f"a table's std must be a number of at least 0; it is {self.std!r}.")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**63:
            raise UsageError(f"a table's seed must be an integer from 0 to 2**63 - 1; it is {self.seed!r}.")

    @property
    def words(self) -> int:
        """4-byte words of a row in the file: the mark, the values, the optimizer's state."""
        return 1 + self.width + self.optimizer.state_width(self.width)

    def facts(self) -> dict[str, Any]:
        """What the bytes of a file depend on. Learning rates are not among them: they may change."""
        return {
            "rows": self.rows,
            "width": self.width,
            "words": self.words,
            "optimizer": self.optimizer.kind,
            "initial_state": float(self.optimizer.initial_state),
            "seed": self.seed,
            "std": float(self.std),
        }

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` reads."""
        plain = {name: getattr(self, name) for name in ("rows", "width", "seed", "std")}
        return {**plain, "optimizer": optimizer_to_json(self.optimizer)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> TableSpec:
        plain = {name: value for name, value in data.items() if name != "optimizer"}
        return cls(optimizer=optimizer_from_json(data["optimizer"]), **plain)
