"""Initial values: a function of the place alone, and distributed as stated."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from manyhands.tables.initial import initial_rows


@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=40), st.integers(1, 40), st.integers(0, 2**63 - 1))
def test_the_same_bits_whichever_rows_are_asked_together(ids, width, seed):
    together = initial_rows(np.array(ids), width, seed, 0.1)
    for row, place in zip(together, ids, strict=True):
        assert row.tobytes() == initial_rows(np.array([place]), width, seed, 0.1).tobytes()


def test_these_bits_for_ever():
    assert initial_rows(np.array([0, 10**9]), 2, 7, 1.0).view(np.uint32).tolist() == [
        [1043016931, 1067871263],
        [1064972230, 3199516161],
    ]


def test_mean_deviation_and_shape():
    values = initial_rows(np.arange(100_000), 16, 3, 0.5).astype(np.float64).ravel() / 0.5
    assert abs(values.mean()) < 5e-3
    assert abs(values.std() - 1) < 5e-3
    assert abs((values**4).mean() - 2.7) < 0.02
    assert np.abs(values).max() <= 3.47
    assert abs((np.abs(values) < 1).mean() - 0.683) < 0.02


def test_rows_columns_and_seeds_are_unrelated():
    one, other = initial_rows(np.arange(20_000), 8, 0, 1.0), initial_rows(np.arange(20_000), 8, 1, 1.0)
    for a, b in [(one, other), (one[1:], one[:-1]), (one[:, 1:], one[:, :-1])]:
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.02
