"""Shares of a dimension, and where they are after a view, against numbers that say who owns each element."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from manyhands.tensor_parallel.split import Split, evenly, relocate

splits = st.builds(
    Split,
    st.lists(st.integers(1, 4), min_size=2, max_size=4).map(tuple),
    st.one_of(
        st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple),
        st.tuples(st.integers(1, 3), st.integers(1, 3)).map(lambda pair: (pair[0],) * pair[1]),
    ),
)


def owners(split):
    """The owner of each element, and its place in the owner's share."""
    owner, place = np.full(split.size, -1), np.full(split.size, -1)
    for rank in range(len(split.counts)):
        at = 0
        for start, length in split.ranges(rank):
            assert (owner[start : start + length] == -1).all()
            owner[start : start + length] = rank
            place[start : start + length] = range(at, at + length)
            at += length
        assert at == split.local_size(rank)
    assert (owner >= 0).all(), "every element has an owner"
    return owner, place


@given(splits, st.data())
def test_a_view_keeps_every_element_with_its_owner(split, data):
    before, after = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    shape = (before, split.size, after)
    factors = [f for size in shape for f in _primes(size)]
    new, rest = [], list(factors)
    while rest:
        take = data.draw(st.integers(1, len(rest)))
        new.append(int(np.prod(rest[:take])))
        rest = rest[take:]
    new = tuple(new or [1])
    found = relocate(shape, 1, split, new)
    whole = np.broadcast_to(owners(split)[0][None, :, None], shape).reshape(new)
    if found is None:
        return
    axis, moved = found
    expected = np.broadcast_to(owners(moved)[0].reshape([-1 if d == axis else 1 for d in range(len(new))]), new)
    assert (whole == expected).all()
    for rank in range(len(split.counts)):  # the local share, viewed, holds the same elements in the same order
        numbers = np.arange(np.prod(shape)).reshape(shape)
        mine = np.concatenate([numbers[:, s : s + n] for s, n in split.ranges(rank)], 1)
        wanted = [numbers.reshape(new).take(range(s, s + n), axis) for s, n in moved.ranges(rank)]
        local = list(new)
        local[axis] = moved.local_size(rank)
        assert (mine.reshape(local) == np.concatenate(wanted, axis)).all()


@given(splits, st.integers(1, 3), st.integers(1, 3))
def test_views_of_attention_are_found(split, batch, length):
    """(batch, length, pieces * heads * width) -> (batch, length, pieces, heads, width), and back."""
    split = Split(split.counts, (split.pieces[0],) * len(split.pieces))
    shape = (batch, length, split.size)
    apart = (batch, length, len(split.pieces), split.atoms, split.pieces[0])
    axis, heads = relocate(shape, 2, split, apart)
    assert (axis, heads) == (3, Split(split.counts))
    assert relocate(apart, axis, heads, shape) == (2, split)


@given(splits)
def test_slices_of_whole_pieces(split):
    cuts = np.cumsum([0, *(split.atoms * piece for piece in split.pieces)])
    for first in range(len(split.pieces)):
        for last in range(first + 1, len(split.pieces) + 1):
            part, _, _ = split.select(int(cuts[first]), int(cuts[last]))
            assert (owners(part)[0] == owners(split)[0][cuts[first] : cuts[last]]).all()
    assert split.select(0, 1) is None or cuts[1] == 1


@given(st.integers(1, 6), st.data())
def test_even_shares(degree, data):
    split = evenly(data.draw(st.integers(degree, 40)), degree)
    assert max(split.counts) - min(split.counts) <= 1
    assert split.same(Split(split.counts, (1,)))


def _primes(number):
    found, divisor = [], 2
    while number > 1:
        while number % divisor == 0:
            found.append(divisor)
            number //= divisor
        divisor += 1
    return found
