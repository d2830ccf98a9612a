"""Another dataset has another digest, and the same one has the same wherever and whenever it is read."""

import random

import numpy as np
import pytest
import torch

from manyhands.training.datasum import data_sha256


class Samples(list):
    """A dataset."""


def drawn():
    class Drawn:
        def __len__(self):
            return 5

        def __getitem__(self, index):
            return torch.randn(3), random.random(), np.random.rand(2)

    return Drawn()


PLAIN = [(torch.arange(3.0) + i, i) for i in range(9)]


@pytest.mark.parametrize("place", [0, 4, 8])
@pytest.mark.parametrize("other", [(torch.zeros(3), 1), (torch.arange(3), 0), (torch.zeros(1, 3), 0), "a"])
def test_another_sample_is_another_digest(place, other):
    changed = Samples(PLAIN)
    changed[place] = other
    assert data_sha256(changed, 1) != data_sha256(Samples(PLAIN), 1)


def test_another_number_of_samples_is_another_digest():
    assert data_sha256(PLAIN[:8], 1) != data_sha256(PLAIN, 1) != data_sha256(PLAIN + PLAIN[8:], 1)


def test_what_is_drawn_is_drawn_from_the_jobs_streams():
    first = data_sha256(drawn(), 1)
    torch.manual_seed(99)
    random.seed(99)
    assert data_sha256(drawn(), 1) == first != data_sha256(drawn(), 2)


def test_objects_without_a_value_count_by_their_type():
    assert data_sha256([object()], 0) == data_sha256([object()], 0) != data_sha256([{}.keys()], 0)


def test_what_cannot_be_read_has_none():
    class Broken(Samples):
        def __getitem__(self, index):
            raise OSError("gone")

    assert data_sha256(Broken([1]), 0) == ""


def test_what_the_types_are_of():
    kinds = [
        torch.ones(2, dtype=torch.bfloat16),
        np.ones(2, dtype=np.float16),
        b"xy",
        "xy",
        1,
        1.0,
        None,
        [1, {"a": 2}],
    ]
    assert len({data_sha256([kind], 0) for kind in kinds}) == len(kinds)
