"""A placed model infers what the whole one does, with nothing of a training around it."""

import pytest
import split_checks


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize(
    ("layout", "furthest"),
    [("pp=2", [None, 0.0]), ("tp=2", [1e-6, 1e-6]), ("dp=2,shard=3", [0.0, 0.0]), ("pp=3", [None, None, 0.0])],
)
def test_the_whole_models_output(layout, furthest, ragged, gangs):
    found = gangs.gang(len(furthest)).run(split_checks.placed, layout, ragged)
    assert [far is None for far in found] == [limit is None for limit in furthest]
    assert all(far <= limit for far, limit in zip(found, furthest, strict=True) if limit is not None), found
