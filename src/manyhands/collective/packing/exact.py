"""The exact solution of a linear program, from a floating-point one: which rows are tight says it all.

A vertex is the only solution of its tight rows, so solving those in fractions gives it exactly, whatever the size of
the numbers. Gaussian elimination on sparse rows; O(rows * columns**2) at worst, little for matrices of 0 and +-1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np
from scipy.sparse import coo_array

Row = tuple[dict[int, Fraction], Fraction]


def solve_tight(rows: Sequence[Row], approximately: np.ndarray) -> list[Fraction]:
    """The values of all columns by these equations; columns that are 0 stay 0.

    What the equations leave open is taken from the approximation. One that contradicts those before it is skipped,
    so the caller has to check what matters.
    """
    free = {column for column, value in enumerate(approximately) if value}
    pivots: dict[int, Row] = {}
    for row, right in rows:
        left, right = _reduced(({column: value for column, value in row.items() if column in free}, right), pivots)
        if not left:
            continue
        pivot = max(left, key=lambda column: (left[column].denominator == 1, -column))
        factor = left[pivot]
        pivots[pivot] = ({column: value / factor for column, value in left.items()}, right / factor)
    return _substituted(pivots, approximately, free)


def _reduced(row: Row, pivots: dict[int, Row]) -> Row:
    left, right = dict(row[0]), row[1]
    while True:
        pivot = next((column for column in left if column in pivots), None)
        if pivot is None:
            return left, right
        factor = left.pop(pivot)
        other, other_right = pivots[pivot]
        right -= factor * other_right
        for column, value in other.items():
            if column == pivot:
                continue
            rest = left.get(column, Fraction(0)) - factor * value
            if rest:
                left[column] = rest
            else:
                left.pop(column, None)


def _substituted(pivots: dict[int, Row], approximately: np.ndarray, free: set[int]) -> list[Fraction]:
    """Values of all columns by substitution: later pivots may occur in earlier rows, never the other way round."""
    values = [Fraction(0)] * len(approximately)
    for column in free - pivots.keys():
        values[column] = Fraction(round(float(approximately[column])))
    for pivot, (row, right) in reversed(pivots.items()):
        values[pivot] = right - sum(
            (value * values[column] for column, value in row.items() if column != pivot), Fraction(0)
        )
    return values


def fraction(value: float) -> Fraction:
    """A weight of a proof, which holds whatever it is rounded to."""
    return Fraction(float(value)).limit_denominator(20_000) if abs(value) > 1e-7 else Fraction(0)


def matrix(rows: Sequence[Mapping[int, float]], columns: int) -> coo_array:
    """Rows of few columns as SciPy wants them."""
    entries = [(index, column, value) for index, row in enumerate(rows) for column, value in row.items()]
    where = ([index for index, _, _ in entries], [column for _, column, _ in entries])
    return coo_array(([value for _, _, value in entries], where), shape=(len(rows), columns))
