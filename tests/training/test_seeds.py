"""Streams that belong to the job: fixed for ever, different for every label, and complete."""

import hashlib
import random

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from manyhands.training.seeds import seed_everything, stream_seed

CPU = torch.device("cpu")
labels = st.lists(st.integers(0, 10**6) | st.sampled_from(["model", "permutation", "evaluate"]), max_size=3)


@given(st.integers(0, 2**63 - 1), labels)
def test_a_stream_is_a_hash_of_its_name(seed, names):
    text = "/".join(str(part) for part in [seed, *names])
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    value = stream_seed(seed, *names)
    assert value == int.from_bytes(digest, "little") // 2
    assert 0 <= value < 2**63


def test_the_streams_of_a_job_are_all_different():
    streams = [stream_seed(seed, step, part) for seed in range(3) for step in range(50) for part in range(16)]
    streams += [stream_seed(seed, "model") for seed in range(3)]
    streams += [stream_seed(seed, "permutation", epoch) for seed in range(3) for epoch in range(50)]
    assert len(set(streams)) == len(streams)


def test_the_hash_is_fixed():
    assert stream_seed(0) == 4246866556266386882
    assert stream_seed(7, "model") == 5278202508647584881
    assert stream_seed(7, 3, 1) == 6769647969490354089


def draw():
    return torch.rand(3).tolist(), random.random(), np.random.rand(3).tolist()


@given(st.integers(0, 2**63 - 1))
def test_one_seed_fixes_every_generator(value):
    seed_everything(value, CPU)
    first = draw()
    draw()
    seed_everything(value, CPU)
    assert draw() == first


def test_another_seed_gives_other_draws_in_every_generator():
    seed_everything(5, CPU)
    first = draw()
    seed_everything(2**33 + 6, CPU)
    assert all(a != b for a, b in zip(first, draw(), strict=True))
