"""Row-wise optimizers: only rows that have a gradient change, and each by its own history alone.

Problem: an optimizer over a whole table reads and writes every row in every step. Idea: keep each row's state beside
the row, and apply the rule of the dense optimizer to the rows that were used. A row that is not used keeps its
momentum (this is "lazy"; `torch.optim.SparseAdam` does the same).

A row's new bits depend on the row, its state and its gradient, never on which other rows are in the same call: the
arithmetic is elementwise fp32 addition, multiplication, division and square root, which IEEE 754 rounds in one way
only, in NumPy, which does not fuse them. Powers are made by multiplication, because libraries differ in theirs.

Cost per row of width w: 1, 4 or 12 passes over w floats; state of 0, w or 2 w + 1 floats.
Source: Duchi, Hazan and Singer 2011 (Adagrad); Kingma and Ba 2015 (Adam); formulas as in torch.optim.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from manyhands.errors import UsageError

Floats = NDArray[np.float32]


class RowOptimizer(Protocol):
    """What a table asks of an optimizer."""

    kind: ClassVar[str]
    """The optimizer's name in the header of a table's file."""

    @property
    def initial_state(self) -> float:
        """What every float of the state of a row is before its first update."""
        ...

    def state_width(self, width: int) -> int:
        """Floats of state per row of `width`."""
        ...

    def update(self, rows: Floats, state: Floats, grads: Floats, scale: float = 1.0) -> None:
        """Change `rows` [n, w] and `state` [n, state_width(w)] in place by `grads` [n, w].

        Args:
            scale: factor on the learning rate, for a scheduler to drive.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class RowSGD:
    """`row -= lr * grad`."""

    lr: float
    """Learning rate."""
    kind: ClassVar[str] = "sgd"

    def __post_init__(self) -> None:
        _check(self, lr=self.lr > 0)

    @property
    def initial_state(self) -> float:
        return 0.0

    def state_width(self, width: int) -> int:
        return 0

    def update(self, rows: Floats, state: Floats, grads: Floats, scale: float = 1.0) -> None:
        rows -= grads * (self.lr * scale)


@dataclass(frozen=True, kw_only=True)
class RowAdagrad:
    """`sum += grad**2; row -= lr * grad / (sqrt(sum) + eps)`, elementwise."""

    lr: float
    """Learning rate."""
    eps: float = 1e-10
    """Keeps the division finite."""
    initial: float = 0.0
    """What the sum of squares begins with."""
    kind: ClassVar[str] = "adagrad"

    def __post_init__(self) -> None:
        _check(self, lr=self.lr > 0, eps=self.eps > 0, initial=self.initial >= 0)

    @property
    def initial_state(self) -> float:
        return self.initial

    def state_width(self, width: int) -> int:
        return width

    def update(self, rows: Floats, state: Floats, grads: Floats, scale: float = 1.0) -> None:
        state += grads * grads
        change = np.sqrt(state)
        change += self.eps
        np.divide(grads, change, out=change)
        change *= self.lr * scale
        rows -= change


@dataclass(frozen=True, kw_only=True)
class RowAdam:
    """Lazy Adam. Unlike `torch.optim.SparseAdam`, the bias correction counts the updates of the *row*, not of the
    table: a row that is first used at step 10000 then takes a first step of `lr`, as it would at step 1."""

    lr: float
    """Learning rate."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the mean of the gradient and of its square."""
    eps: float = 1e-8
    """Keeps the division finite."""
    kind: ClassVar[str] = "adam"

    def __post_init__(self) -> None:
        _check(self, lr=self.lr > 0, betas=all(0 <= beta < 1 for beta in self.betas), eps=self.eps > 0)

    @property
    def initial_state(self) -> float:
        return 0.0

    def state_width(self, width: int) -> int:
        """Mean, mean square, and the count of updates: exact to 2**24, where the correction has long been 1."""
        return 2 * width + 1

    def update(self, rows: Floats, state: Floats, grads: Floats, scale: float = 1.0) -> None:
        width = rows.shape[1]
        mean, square, count = state[:, :width], state[:, width : 2 * width], state[:, 2 * width]
        count += 1.0
        change = grads - mean
        change *= 1 - self.betas[0]
        mean += change
        np.multiply(grads, grads, out=change)
        change -= square
        change *= 1 - self.betas[1]
        square += change
        np.sqrt(square, out=change)
        change += self.eps
        np.divide(mean, change, out=change)
        change *= self._rates(count, self.lr * scale)[:, None]
        rows -= change

    def _rates(self, count: Floats, lr: float) -> Floats:
        """Learning rate with the bias correction of each row's count."""
        counts, place = np.unique(count, return_inverse=True)
        first = 1.0 - _powers(self.betas[0], counts)
        second = 1.0 - _powers(self.betas[1], counts)
        return (lr * np.sqrt(second) / first).astype(np.float32)[place]


OPTIMIZERS: dict[str, type] = {cls.kind: cls for cls in (RowSGD, RowAdagrad, RowAdam)}


def optimizer_to_json(optimizer: RowOptimizer) -> dict[str, Any]:
    """Plain data that `optimizer_from_json` reads."""
    return {"kind": optimizer.kind, **asdict(optimizer)}  # type: ignore[call-overload]


def optimizer_from_json(data: dict[str, Any]) -> RowOptimizer:
    """The optimizer that `optimizer_to_json` described."""
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in data.items()}
    return OPTIMIZERS[str(fields.pop("kind"))](**fields)


def _powers(base: float, exponents: NDArray[Any]) -> NDArray[np.float64]:
    """`base ** exponents` for whole exponents, by squaring."""
    left = exponents.astype(np.int64)
    result = np.ones(len(left))
    factor = base
    while left.any():
        result[left & 1 == 1] *= factor
        factor *= factor
        left >>= 1
    return result


def _check(optimizer: object, **fine: bool) -> None:
    for name, good in fine.items():
        value = getattr(optimizer, name)
        numbers = value if isinstance(value, tuple) else (value,)
        if not good or not all(math.isfinite(number) for number in numbers):
            raise UsageError(f"{type(optimizer).__name__}: {name}={value!r} is out of range.")
