"""Which module of a model is split how, and why: plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from manyhands.tensor_parallel.split import Split


class Style(StrEnum):
    COLUMN = "column"
    """A projection whose output features are split: each worker computes its own."""
    ROW = "row"
    """A projection whose input features are split: the workers' outputs are added up."""
    VOCABULARY = "vocabulary"
    """An embedding whose rows are split: a token's row comes from the worker that has it."""
    SEQUENCE = "sequence"
    """Whole weights, applied to the worker's part of the sequence."""
    REPLICATED = "replicated"
    """Whole weights and whole tensors, the same on every worker."""


@dataclass(frozen=True, kw_only=True)
class ModulePlan:
    module: str
    """Qualified name of the module."""
    style: Style
    why: str
    split: Split | None = None
    """Split of the features or rows that are split."""
    weight: tuple[str, int] | None = None
    """Name of the split weight, and which of its dimensions."""
    bias: str | None = None
    """Name of the bias that is split with it."""
    called: bool = True
    """Whether the example called the module."""


@dataclass(frozen=True, kw_only=True)
class TensorPlan:
    """How a model is split over a tensor group of `degree` workers."""

    degree: int
    sequence: bool = False
    """Whether activations between the split projections are shared out along the sequence."""
    modules: tuple[ModulePlan, ...] = ()
    """Every module that has parameters of its own, in the model's order."""

    @property
    def parameters(self) -> dict[str, tuple[int, Split]]:
        """Split parameters: name -> (dimension, split). All others are whole."""
        found = {}
        for module in self.modules:
            if module.split is not None and module.weight is not None:
                found[module.weight[0]] = (module.weight[1], module.split)
                if module.bias is not None:
                    found[module.bias] = (0, module.split)
        return found

    def style(self, module: str) -> Style:
        return next(planned.style for planned in self.modules if planned.module == module)

    def as_dict(self) -> dict[str, Any]:
        """The plan as plain data that JSON can hold; `from_dict` reads it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> TensorPlan:
        modules = tuple(
            ModulePlan(
                module=m["module"], style=Style(m["style"]), why=m["why"], bias=m["bias"], called=m["called"],
                weight=(m["weight"][0], m["weight"][1]) if m["weight"] else None,
                split=Split(tuple(m["split"]["counts"]), tuple(m["split"]["pieces"])) if m["split"] else None,
            )
            for m in data["modules"]
        )  # fmt: skip
        return cls(degree=data["degree"], sequence=data["sequence"], modules=modules)

    def __str__(self) -> str:
        """A table of modules, styles, shares and reasons."""
        rows = [("module", "style", "shares", "why")]
        for m in self.modules:
            shares = (
                ""
                if m.split is None
                else f"{'/'.join(map(str, m.split.counts))} x {'+'.join(map(str, m.split.pieces))}"
            )
            rows.append((m.module or "(model)", str(m.style), shares, m.why))
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = ["  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[3]]) for row in rows]
        return "\n".join([f"tensor group of {self.degree}" + (", sequence parallel" if self.sequence else ""), *lines])
