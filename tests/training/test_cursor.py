"""Every sample exactly once per epoch, whoever takes which positions, and a stream that never changes."""

import hashlib
import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from manyhands.training.cursor import permutation, sample_indices

seeds = st.integers(0, 2**63 - 1)
counts = st.integers(1, 60)


@given(seeds, st.integers(0, 1000), st.integers(1, 300))
def test_an_epoch_is_a_permutation(seed, epoch, samples):
    assert sorted(permutation(seed, epoch, samples).tolist()) == list(range(samples))


@given(seeds, counts, st.integers(0, 500), st.integers(0, 200))
def test_positions_run_through_the_permutations(seed, samples, start, count):
    expected = [int(permutation(seed, p // samples, samples)[p % samples]) for p in range(start, start + count)]
    assert sample_indices(seed, samples, start, count) == expected


@given(st.data(), seeds, counts, st.integers(1, 4))
def test_any_cut_gives_every_sample_once_per_epoch(data, seed, samples, epochs):
    total = samples * epochs
    cuts = sorted(data.draw(st.sets(st.integers(0, total), max_size=15)) | {0, total})
    parts = [sample_indices(seed, samples, a, b - a) for a, b in itertools.pairwise(cuts)]
    order = data.draw(st.permutations(range(len(parts))))  # workers are not asked in order
    again = {i: sample_indices(seed, samples, cuts[i], cuts[i + 1] - cuts[i]) for i in order}
    taken = [index for i in range(len(parts)) for index in again[i]]
    for epoch in range(epochs):
        assert sorted(taken[epoch * samples : (epoch + 1) * samples]) == list(range(samples))


@given(seeds)
def test_epochs_and_seeds_have_orders_of_their_own(seed):
    orders = {tuple(permutation(seed, epoch, 50).tolist()) for epoch in range(10)}
    assert len(orders) == 10
    assert permutation(seed, 0, 50).tolist() != permutation((seed + 1) % 2**63, 0, 50).tolist()


def test_the_stream_is_fixed():
    """A change here changes the result of every job that anybody has run."""
    assert permutation(0, 0, 10).tolist() == [5, 4, 0, 8, 1, 6, 3, 2, 9, 7]
    assert permutation(1234, 5, 10).tolist() == [4, 8, 0, 3, 2, 7, 9, 1, 6, 5]
    assert sample_indices(7, 1000, 995, 10) == [328, 127, 893, 517, 943, 569, 258, 692, 189, 414]


def test_the_stream_is_what_its_definition_says():
    key = int.from_bytes(hashlib.blake2b(b"42/permutation/3", digest_size=8).digest(), "little") >> 1
    draws = np.random.Philox(key=key).random_raw(100).tolist()
    assert permutation(42, 3, 100).tolist() == sorted(range(100), key=lambda index: (draws[index], index))


def test_nothing_asked_nothing_taken():
    assert sample_indices(0, 5, 3, 0) == []
    assert sample_indices(0, 1, 0, 4) == [0, 0, 0, 0]
