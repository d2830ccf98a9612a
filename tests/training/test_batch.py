"""From a dataset to a batch on the device, and what a user reads when the samples do not fit together."""

from collections import namedtuple

import numpy as np
import pytest
import torch
from torch.utils.data import Subset, TensorDataset

from manyhands.errors import UserError
from manyhands.parallel.call import call
from manyhands.training.batch import fetch, to_device

CPU = torch.device("cpu")


def test_samples_are_stacked_in_the_order_asked_for():
    data = TensorDataset(torch.arange(10.0).view(10, 1), torch.arange(10))
    inputs, targets = fetch(data, [7, 0, 7, 3], CPU)
    assert inputs.tolist() == [[7.0], [0.0], [7.0], [3.0]] and targets.tolist() == [7, 0, 7, 3]


def test_nested_samples():
    data = [({"ids": torch.tensor([i, i]), "pair": (i, float(i))}, np.float32(i)) for i in range(3)]
    inputs, targets = fetch(data, [2, 1], CPU)
    assert inputs["ids"].tolist() == [[2, 2], [1, 1]]
    assert [part.tolist() for part in inputs["pair"]] == [[2, 1], [2.0, 1.0]]
    assert targets.tolist() == [2.0, 1.0]


def test_pairs_may_be_lists_or_named():
    pair = namedtuple("pair", ["x", "y"])
    for make in (lambda i: [i, -i], lambda i: (i, -i), lambda i: pair(i, -i)):
        inputs, targets = fetch([make(0), make(1)], [1, 0], CPU)
        assert (inputs.tolist(), targets.tolist()) == ([1, 0], [-1, 0])


def test_datasets_that_fetch_many_at_once_are_asked_once():
    class Fast:
        asked = []

        def __getitems__(self, indices):
            self.asked.append(list(indices))
            return [(torch.tensor(i), i) for i in indices]

        def __getitem__(self, index):
            raise AssertionError("one by one")

    assert fetch(Fast(), [4, 2], CPU)[1].tolist() == [4, 2]
    assert Fast.asked == [[4, 2]]


def test_subsets_of_datasets():
    data = TensorDataset(torch.arange(10.0), torch.arange(10))
    assert fetch(Subset(data, [9, 8, 7]), [0, 2], CPU)[1].tolist() == [9, 7]


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        (torch.zeros(2), ["sample 4 of the data is a Tensor", "(input, target)", "__getitem__"]),
        ({"x": 1, "y": 2}, ["sample 4 of the data is a dict"]),
        ((1, 2, 3), ["sample 4 of the data is a tuple"]),
        (3, ["is a int"]),
    ],
)
def test_samples_that_are_no_pairs(sample, words):
    with pytest.raises(UserError) as error:
        fetch([sample] * 6, [4, 5], CPU)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        ((torch.zeros(3), 0), ["sample 0 is ([2], int)", "sample 2 is ([3], int)", "Pad or crop"]),
        (({"a": torch.zeros(2)}, 0), ["sample 2 is ({a: [2]}, int)"]),
        ((torch.zeros(2), 0, 0), ["sample 2 is ([2], int, int)"]),
        ((np.zeros((2, 1)), 0), ["sample 2 is ([2, 1], int)"]),
        ((torch.zeros(2), None), ["sample 2 is ([2], NoneType)"]),
    ],
)
def test_samples_that_do_not_stack_are_named(odd, words):
    data = [(torch.zeros(2), 0), (torch.ones(2), 1), odd]
    with pytest.raises(UserError) as error:
        fetch(data, [0, 1, 2], CPU)
    for word in [*words, "cannot be stacked"]:
        assert word in str(error.value)


def test_samples_of_something_that_no_tensor_can_hold():
    with pytest.raises(UserError, match=r"samples \[1, 0\].*cannot be stacked into a batch: .*object"):
        fetch([(object(), 1), (object(), 2)], [1, 0], CPU)


def test_errors_of_the_dataset_itself_are_its_own():
    with pytest.raises(ZeroDivisionError):
        fetch(type("Broken", (), {"__getitem__": lambda self, i: 1 / 0})(), [0], CPU)


def test_inputs_are_handed_over_as_they_are_shaped():
    def model(*args, **kwargs):
        return args, kwargs

    assert call(model, 1) == ((1,), {})
    assert call(model, (1, 2)) == call(model, [1, 2]) == ((1, 2), {})
    assert call(model, {"a": 1}) == ((), {"a": 1})


def test_everything_goes_to_the_device_and_the_rest_stays():
    moved = to_device(
        {"a": [torch.ones(1), "text"], "b": (torch.ones(2), {"c": torch.ones(3)}), "d": None}, torch.device("meta")
    )
    assert moved["a"][0].is_meta and moved["b"][0].is_meta and moved["b"][1]["c"].is_meta
    assert (moved["a"][1], moved["d"]) == ("text", None)
