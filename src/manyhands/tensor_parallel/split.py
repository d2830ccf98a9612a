"""How one dimension of a tensor is shared by the workers of a tensor group.

The problem: the rows of a fused projection are `[all of q | all of k | all of v]`, and a worker needs the rows of
*its heads* of each. A contiguous share of the rows would hold the wrong ones.

The idea: a dimension is a row of `pieces`, and each piece is a row of *atoms* (heads, groups of heads, hidden units,
rows of a vocabulary): what must stay together. Every worker gets the same atoms of every piece, in order. A plain
share is the case of one piece. Piece p has `pieces[p]` elements per atom, so grouped queries (wide) and keys (narrow)
fit into one dimension, and counts of atoms need not be equal: 4 heads on 3 workers are 2, 1, 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache


@dataclass(frozen=True)
class Split:
    """Shares of a dimension of `atoms * sum(pieces)` elements."""

    counts: tuple[int, ...]
    """Atoms of each worker."""
    pieces: tuple[int, ...] = (1,)
    """Elements per atom of each piece."""

    @cached_property
    def atoms(self) -> int:
        return sum(self.counts)

    @cached_property
    def size(self) -> int:
        """Elements of the whole dimension."""
        return self.atoms * sum(self.pieces)

    @property
    def uniform(self) -> bool:
        """Whether all pieces are alike, so that the dimension is (pieces, atoms, elements) in row-major order."""
        return all(piece == self.pieces[0] for piece in self.pieces)

    def local_size(self, rank: int) -> int:
        return self.counts[rank] * sum(self.pieces)

    def ranges(self, rank: int) -> list[tuple[int, int]]:
        """(start, length) of the worker's share of every piece, in the whole dimension."""
        before, found, start = sum(self.counts[:rank]), [], 0
        for piece in self.pieces:
            found.append((start + before * piece, self.counts[rank] * piece))
            start += self.atoms * piece
        return found

    def same(self, other: Split) -> bool:
        """Whether every worker has the same elements by the other."""
        ranks = range(len(self.counts))
        return self == other or (
            self.size == other.size and all(_merged(self.ranges(r)) == _merged(other.ranges(r)) for r in ranks)
        )

    def select(self, start: int, stop: int) -> tuple[Split, int, int] | None:
        """The pieces that make up [start, stop), and the index of the first and after the last; None if none do."""
        bounds = [0]
        for piece in self.pieces:
            bounds.append(bounds[-1] + self.atoms * piece)
        if start >= stop or start not in bounds or stop not in bounds:
            return None
        first, last = bounds.index(start), bounds.index(stop)
        return Split(self.counts, self.pieces[first:last]), first, last


def _merged(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges with those that meet made one."""
    found: list[tuple[int, int]] = []
    for start, length in ranges:
        if found and sum(found[-1]) == start:
            found[-1] = (found[-1][0], found[-1][1] + length)
        else:
            found.append((start, length))
    return found


def evenly(atoms: int, degree: int, pieces: tuple[int, ...] = (1,)) -> Split:
    """Atoms as even as possible, the first workers one more."""
    return Split(tuple(atoms // degree + (rank < atoms % degree) for rank in range(degree)), pieces)


@lru_cache(4096)
def relocate(shape: tuple[int, ...], dim: int, split: Split, new: tuple[int, ...]) -> tuple[int, Split] | None:
    """Where the split dimension is after `view(new)`: (dimension, split), or None if no dimension of `new` holds it.

    A split dimension is (pieces, atoms, elements); in memory order the whole tensor is (before, atoms, after) with
    `after` elements behind each atom. A view keeps that order, so the atoms lie in the one new dimension whose stride
    divides `after` and whose end is a multiple of `atoms * after`.
    """
    tail = _product(shape[dim + 1 :])
    if not split.uniform:
        return _unchanged(split, tail, new)
    for merged in _common_divisors(split.counts):
        atoms, after = split.atoms // merged, split.pieces[0] * merged * tail
        stride = 1
        for place in reversed(range(len(new))):
            inner, rest = divmod(after, stride)
            if not rest and inner and new[place] % (inner * atoms) == 0 and new[place]:
                pieces = (inner,) * (new[place] // (inner * atoms))
                return place, Split(tuple(count // merged for count in split.counts), pieces)
            stride *= new[place]
    return None


def _unchanged(split: Split, tail: int, new: tuple[int, ...]) -> tuple[int, Split] | None:
    stride = 1
    for place in reversed(range(len(new))):
        if stride == tail and new[place] == split.size:
            return place, split
        stride *= new[place]
    return None


def _common_divisors(counts: tuple[int, ...]) -> list[int]:
    """Numbers of atoms that may be merged so that every worker keeps whole ones."""
    return [d for d in range(1, min(counts) + 1) if all(count % d == 0 for count in counts)]


def _product(sizes: tuple[int, ...]) -> int:
    result = 1
    for size in sizes:
        result *= size
    return result
