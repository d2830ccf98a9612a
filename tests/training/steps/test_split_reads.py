"""Every sample is read by those that need it, once; the others are handed it, with the state of the generators.

A step has 16 samples in micro-batches of two, an evaluation eight samples.
"""

import pytest
import split_checks
from test_split_exact import check_same_bits

STEPS, BATCH, EVALUATED = 4, 16, 8
ALL = STEPS * BATCH, EVALUATED
NONE = 0, 0
FIRST = 2
"""Samples of the first micro-batch, which rank 0 reads and hands to all: the others have it when it is their turn."""
LAST = STEPS * BATCH - FIRST, EVALUATED


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        ("dp=2,shard=1", [(STEPS * BATCH // 2, EVALUATED // 2)] * 2),
        ("pp=2", [ALL, LAST]),
        ("pp=3", [ALL, NONE, LAST]),
        ("pp=2,schedule=interleaved", [ALL, LAST]),
        ("pp=2,schedule=zb-v", [ALL, NONE]),
        ("tp=2", [ALL, NONE]),
        ("pp=2,tp=2", [ALL, NONE, LAST, NONE]),
    ],
)
def test_who_reads_how_much(layout, expected, gangs):
    assert gangs.gang(len(expected)).run(split_checks.reads, layout, STEPS) == expected


def test_what_reading_draws_is_the_same_for_all(gangs):
    layouts = ["pp=2", "pp=3", "pp=2,schedule=interleaved", "pp=2,schedule=zb-v", "dp=2,shard=3"]
    check_same_bits(gangs, [("draws", layout) for layout in layouts])
    ((_, outcome),) = gangs.splits([("draws", "tp=2", 5, None)]).items()
    assert outcome["weights"] < 1e-5, outcome
