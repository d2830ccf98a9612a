"""An evaluation is the job's: its batches have the size that it says, on any layout."""

import pytest
from test_split_exact import check_same_bits

LAYOUTS = ["pp=2", "pp=3,schedule=gpipe", "pp=2,schedule=interleaved", "pp=2,dp=2,schedule=zb-h1", "pp=2,schedule=zb-v"]
LAYOUTS += ["dp=2,shard=1", "dp=4,shard=3", "pp=2,dp=2,shard=3"]


def test_batches_of_another_size_than_micro_batches(gangs):
    """Eleven samples by four: sizes of 4, 4 and 3, beside micro-batches of two."""
    check_same_bits(gangs, [("evaluated", layout) for layout in LAYOUTS], steps=2)


def test_masks_of_another_size(gangs):
    pytest.importorskip("transformers")
    check_same_bits(gangs, [("evaluated-llama", layout) for layout in ("pp=2", "dp=2,shard=3")], steps=2)


def test_within_layers(gangs):
    ((_, outcome),) = gangs.splits([("evaluated", "tp=2", 2, None)]).items()
    worst = outcome["worst"]
    assert worst.get("evaluation", [0.0])[0] < 1e-5, worst
