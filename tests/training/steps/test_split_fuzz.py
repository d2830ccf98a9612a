"""Layouts drawn at random, over models of every kind: refused with a reason, or as equal as the verdict says."""

import random

import pytest

from manyhands.errors import UserError
from manyhands.pipeline import SCHEDULES
from manyhands.plan import Layout
from manyhands.plan.legality import SAME_BITS

pytest.importorskip("transformers")

MODELS = ("tied", "cnn", "llama", "bert", "t5", "t5-tied")
STEPS = 5
MANY = 20
TOLERANCE = 1e-5


def drawn(count, seed, workers=4):
    """So many (job, layout), no two alike."""
    chance, found = random.Random(seed), {}
    while len(found) < count:
        parts = {name: chance.choice((1, 1, 2, 3, 4)) for name in ("dp", "pp", "tp")}
        if parts["dp"] * parts["pp"] * parts["tp"] > workers:
            continue
        schedule = chance.choice(list(SCHEDULES)) if parts["pp"] > 1 else None
        shard = chance.randrange(4) if parts["dp"] > 1 else 0
        try:
            layout = Layout(**parts, shard=shard, **({"schedule": schedule} if schedule else {}))
        except UserError:
            continue
        if layout.split:
            found[chance.choice(MODELS), str(layout)] = None
    return list(found)


def check(cases, gangs, steps):
    wrong = {}
    for case, outcome in gangs.splits([(*case, steps, None) for case in cases]).items():
        if "refused" in outcome:
            ok = "Nearest that works: --layout" in outcome["refused"]
        elif outcome["equality"] == SAME_BITS:
            ok = outcome["worst"] == {}
        else:
            ok = outcome["weights"] <= TOLERANCE and "form" not in outcome["worst"]
        if not ok:
            wrong[case[:2]] = outcome
    assert not wrong


def test_drawn_layouts(gangs):
    check(drawn(6, seed=1), gangs, STEPS)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 10))
def test_more_drawn_layouts(seed, gangs):
    check(drawn(24, seed), gangs, MANY)
