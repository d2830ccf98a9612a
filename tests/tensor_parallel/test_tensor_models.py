"""Split models of every kind against one worker: loss, gradients, norm, weights after steps of AdamW, outputs."""

import pytest
from tensor_checks import compare, refusals, round_trip, tied_by_torch

OURS = ["gpt", "tied_gpt", "functional", "convolutions", "grouped", "encoder"]
HUGGING_FACE = ["llama", "qwen3", "phi3", "gpt2", "gpt_neox", "bert", "eager_bert", "t5"]


def same(found, tolerance):
    for what in ("loss", "gradient", "weight", "output"):
        assert found[what] <= tolerance, (what, found)
    assert found["noise"] < 0.05
    return found


@pytest.mark.parametrize("name", OURS + HUGGING_FACE)
def test_two_workers_train_as_one(gang_of, name):
    found = same(gang_of(2).run(compare, name)[0], 1e-5)
    assert {"column", "row"} <= set(found["styles"].values())
    assert not found["gathered"], "computed by shares throughout"


@pytest.mark.parametrize("world", [3, 4])
@pytest.mark.parametrize("name", [*OURS, "two_groups"])
def test_more_workers_differ_by_the_rounding_of_float64(gang_of, name, world):
    found = same(gang_of(world).run(compare, name, "float64")[0], 1e-9)
    assert {"column", "row"} <= set(found["styles"].values())


@pytest.mark.slow
@pytest.mark.parametrize("world", [3, 4])
@pytest.mark.parametrize("name", HUGGING_FACE)
def test_more_workers_train_as_one(gang_of, name, world):
    same(gang_of(world).run(compare, name)[0], 1e-5)


@pytest.mark.parametrize("name", ["gpt", "llama", "bert", "t5"])
def test_activations_shared_out_along_the_sequence(gang_of, name):
    found = same(gang_of(2).run(compare, name, "float32", {"sequence": True})[0], 1e-5)
    assert "sequence" in found["styles"].values()
    assert not found["gathered"]


def test_an_uneven_sequence_and_a_split_vocabulary(gang_of):
    options = {"sequence": True, "large_embedding": 1}
    found = same(gang_of(3).run(compare, "gpt", "float64", options)[0], 1e-9)
    assert found["styles"]["token"] == "vocabulary"


def test_heads_that_are_too_few_stay_whole(gang_of):
    styles = gang_of(3).run(compare, "two_groups")[0]["styles"]
    assert (styles["qkv"], styles["gate_up"]) == ("replicated", "column")


def test_what_does_not_fit_is_said(gang_of):
    size, unseen = gang_of(2).run(refusals)[0]
    assert "tensor group of 3; the mesh is (2,)" in size
    assert "spare was called in training but not in the example" in unseen


def test_whole_values_come_back(gang_of):
    assert all(gang_of(3).run(round_trip, "tied_gpt"))


def test_a_tie_that_torch_breaks_and_we_keep(gang_of):
    """facts F.3: `parallelize_module` makes two parameters of a tied one, which then drift apart."""
    torchs = gang_of(2).run(tied_by_torch)[0]
    assert not torchs["tied"]
    assert torchs["weight"] > 1e-4
    same(gang_of(2).run(compare, "tied_gpt")[0], 1e-5)
