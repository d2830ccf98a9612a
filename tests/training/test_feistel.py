"""A permutation that is computed by position: each index once, no pattern, and nothing to wait for however many."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyhands.training import cursor
from manyhands.training.cursor import sample_indices
from manyhands.training.feistel import ROUNDS, places

HUGE = 10**9
keys = st.lists(st.integers(0, 2**64 - 1), min_size=ROUNDS, max_size=ROUNDS)


def whole(key: list[int], size: int) -> list[int]:
    return places(key, size, np.arange(size, dtype=np.uint64)).tolist()


@given(keys, st.integers(1, 3000))
def test_every_index_once(key, size):
    assert sorted(whole(key, size)) == list(range(size))


@given(keys, st.sampled_from([2**24 + 1, 2**26, HUGE, 2**40, 2**62]), st.data())
def test_large_ranges_are_not_left_and_nothing_comes_twice(key, size, data):
    first = data.draw(st.integers(0, size - 2000))
    found = places(key, size, np.arange(first, first + 2000, dtype=np.uint64)).tolist()
    assert len(set(found)) == 2000 and max(found) < size


def test_small_orders_are_about_equally_frequent():
    """Chi-squared over the 24 orders of 4, of 24000 keys: 23 +- 7, and over 60 once in ten thousand tries."""
    drawn = np.random.Generator(np.random.PCG64(0)).integers(0, 2**63, (24000, ROUNDS)).tolist()
    _, counts = np.unique([whole(key, 4) for key in drawn], axis=0, return_counts=True)
    assert len(counts) == 24
    assert ((counts - 1000.0) ** 2 / 1000).sum() < 60


@pytest.mark.parametrize("first", [0, 123_456_789])
def test_of_a_huge_dataset_positions_say_nothing_about_indices(first):
    found = np.array(sample_indices(7, HUGE, first, 100_000))
    spread, _ = np.histogram(found, bins=100, range=(0, HUGE))
    assert ((spread - 1000.0) ** 2 / 1000).sum() < 180  # 99 +- 14
    assert abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 0.015  # 0 +- 0.003
    assert abs((np.diff(found) > 0).mean() - 0.5) < 0.01
    assert abs((found % 2).mean() - 0.5) < 0.01


def test_epochs_of_a_huge_dataset_have_orders_of_their_own_and_run_on():
    end, begin = sample_indices(7, HUGE, HUGE - 3, 3), sample_indices(7, HUGE, HUGE, 2)
    assert sample_indices(7, HUGE, HUGE - 3, 5) == end + begin
    assert begin != sample_indices(7, HUGE, 0, 2)


def test_the_stream_of_huge_datasets_is_fixed():
    """A change here changes the result of every job on such data that anybody has run."""
    assert sample_indices(0, HUGE, 0, 4) == FIXED
    assert sample_indices(7, cursor.TABLE + 1, cursor.TABLE - 1, 3) == ACROSS


FIXED = [107984887, 164349614, 973313013, 490657817]
ACROSS = [7145735, 12766371, 11593460]
