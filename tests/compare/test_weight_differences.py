"""How far weights are apart: the largest difference of any element."""

import math

import torch

from manyhands.compare.weights import largest


def test_the_largest_difference_counts():
    one = {"a": torch.zeros(3), "b": torch.ones(2, 2), "empty": torch.empty(0), "steps": torch.tensor(5)}
    other = {"a": torch.tensor([0.0, -0.25, 0.125]), "b": torch.ones(2, 2), "empty": torch.empty(0)}
    assert largest(one, other | {"steps": torch.tensor(5)}) == 0.25
    assert largest(one, one) == 0.0
    assert largest({"a": torch.zeros(1, dtype=torch.bfloat16)}, {"a": torch.tensor([2.0], dtype=torch.bfloat16)}) == 2.0


def test_what_is_no_number_is_infinitely_far():
    assert largest({"a": torch.tensor([1.0, math.nan])}, {"a": torch.zeros(2)}) == math.inf
