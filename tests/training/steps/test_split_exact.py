"""The same bits as one worker, however the model is cut: weights, buffers, the optimizer's state, every figure.

Each training has dropout, clipping, a schedule of learning rates and an evaluation, and is compared with
`manyhands.Trainer` in one process. Only FSDP's own sums (ZeRO 2 and 3) are in another order.
"""

import pytest
from split_jobs import JOBS

pytest.importorskip("transformers")

SCHEDULES = ("vanilla", "gpipe", "1f1b", "interleaved", "zb-h1", "zb-v")
STEPS = 3
"""Enough for the optimizer to use what it has kept; for more of them, test_split_fuzz.py (slow)."""

EVERY_SCHEDULE = [("tied", f"pp=2,schedule={schedule}") for schedule in SCHEDULES]
EVERY_SCHEDULE += [("chain", f"pp={ranks},schedule={schedule}") for schedule in SCHEDULES for ranks in (3, 4)]
EVERY_SCHEDULE += [("chain", "pp=2,schedule=interleaved,virtual=3")]

EVERY_MODEL = [(job, f"pp=2,schedule={schedule}") for job in JOBS for schedule in ("1f1b", "zb-h1") if job != "frozen"]
EVERY_MODEL += [("frozen", "pp=2,schedule=1f1b"), ("frozen", "pp=3,schedule=gpipe")]
EVERY_MODEL += [(job, "pp=2,schedule=zb-v") for job in ("cnn", "llama", "t5", "t5-tied", "bert")]
EVERY_MODEL += [(job, "pp=4") for job in ("cnn", "t5-tied")]

WITH_REPLICAS = [
    ("gpt", "pp=2,dp=2,schedule=zb-h1"),
    ("tied", "pp=2,dp=2"),
    ("cnn", "pp=2,dp=2"),
    ("t5-tied", "pp=2,dp=2,schedule=interleaved"),
    ("sometimes", "pp=2,dp=2"),
]

SHARDED = [(job, "dp=2,shard=1") for job in JOBS]
SHARDED += [("tied", "dp=4,shard=1"), ("tied", "pp=2,dp=2,shard=1"), ("cnn", "pp=2,dp=2,shard=1,schedule=zb-h1")]
SHARDED += [("t5-tied", "pp=2,dp=2,shard=1,schedule=zb-v")]


def check_same_bits(gangs, cases, steps=STEPS, cuts=None):
    found = gangs.splits([(*case, steps, cuts) for case in cases])
    different = {case[:2]: outcome for case, outcome in found.items() if outcome.get("worst") != {}}
    assert not different


@pytest.mark.parametrize("cases", [EVERY_SCHEDULE, EVERY_MODEL, WITH_REPLICAS, SHARDED], ids=lambda cases: cases[-1][1])
def test_same_bits(cases, gangs):
    check_same_bits(gangs, cases)
