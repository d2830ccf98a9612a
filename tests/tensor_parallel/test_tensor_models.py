"""Split models of every kind against one worker: loss, gradients, norm, weights after steps of AdamW, outputs."""

import pytest
from tensor_checks import compare

MODELS = [
    *("gpt", "tied_gpt", "functional", "convolutions", "llama", "qwen3"),
    *("phi3", "gpt2", "gpt_neox", "bert", "eager_bert", "t5"),
]


def same(found, tolerance):
    for what in ("loss", "gradient", "weight", "output"):
        assert found[what] <= tolerance, (what, found)
    assert found["noise"] < 0.05
    return found


@pytest.mark.parametrize("name", MODELS)
def test_two_workers_train_as_one(gang_of, name):
    found = same(gang_of(2).run(compare, name)[0], 1e-5)
    assert {"column", "row"} <= set(found["styles"].values())
    assert not found["gathered"], "computed by shares throughout"
