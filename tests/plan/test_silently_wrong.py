"""Combinations that torch trains wrongly without a word: its gradient, and what we refuse or set.

Seen with torch 2.13. A test that fails with a later torch because its gradients are right there says that a rule of
`plan/rules.py` has become too strict.
"""

import pytest
import silent_checks as checks

from manyhands.pipeline import Action, Kind, Table
from manyhands.pipeline.verify import TableError, verify
from manyhands.plan import Kind as VerdictKind
from manyhands.plan import Layout, Traits, judge

RIGHT = 1e-5
"""As a share of the largest element of a gradient, in fp32."""
WRONG = 0.1


def verdict(text, **traits):
    return judge(Layout.parse(text), Traits(micro_batches=checks.MICRO_BATCHES, units=4, **traits))


def is_wrong(off):
    return off is None or off > WRONG


def is_right(off):
    return off is not None and off < RIGHT


@pytest.mark.parametrize("schedule", ["ScheduleZBVZeroBubble", "ScheduleInterleavedZeroBubble"])
def test_zero_bubble_with_sharded_weights(schedule, torch_pair):
    """Weights are freed between the input part and the weight part: gradients of the second stage never come."""
    for off in torch_pair.run(checks.sharded, schedule, True):
        assert all(is_wrong(share) for name, share in off.items() if name[0] in "23"), off
    for off in torch_pair.run(checks.sharded, schedule, False):
        assert all(map(is_right, off.values())), off
    for ours in ("zb-h1", "zb-v"):
        assert verdict(f"pp=2,dp=2,shard=3,schedule={ours}").sets("reshard_after_forward=False")


def test_sharded_weights_without_zero_bubble(torch_pair):
    for off in torch_pair.run(checks.sharded, "ScheduleInterleaved1F1B", True):
        assert all(map(is_right, off.values())), off
    assert verdict("pp=2,dp=2,shard=3,schedule=interleaved").kind is VerdictKind.EXACT


@pytest.mark.parametrize("schedule", ["ScheduleZBVZeroBubble", "ScheduleInterleavedZeroBubble"])
def test_zero_bubble_with_replicas(schedule, torch_pair):
    """DDP exchanges gradients in whole backward passes, of which a zero-bubble stage has none."""
    for off in torch_pair.run(checks.replicated, schedule, True):
        assert all(is_wrong(share) for name, share in off.items() if name[0] in "23"), off
    for off in torch_pair.run(checks.replicated, schedule, False):
        assert all(map(is_right, off.values())), off
    for ours in ("zb-h1", "zb-v"):
        assert verdict(f"pp=2,dp=2,schedule={ours}").sets("exchange after the step")


@pytest.mark.parametrize("schedule", ["ScheduleZBVZeroBubble", "ScheduleInterleavedZeroBubble", "ScheduleDualPipeV"])
def test_zero_bubble_behind_frozen_layers(schedule, torch_pair):
    """The first layer that should train gets no gradient, or a wrong one."""
    off = {name: share for each in torch_pair.run(checks.frozen, schedule, 0) for name, share in each.items()}
    assert is_wrong(off["1.0.weight"]) and is_wrong(off["1.0.bias"]), off
    for ours in ("zb-h1", "zb-v"):
        refused = verdict(f"pp=2,schedule={ours}", frozen="front")
        assert not refused.legal and refused.nearest == Layout(pp=2)


@pytest.mark.parametrize("schedule", ["Schedule1F1B", "ScheduleInterleaved1F1B"])
def test_other_schedules_behind_frozen_layers(schedule, torch_pair):
    for off in torch_pair.run(checks.frozen, schedule, 0):
        assert all(map(is_right, off.values())), off
    assert verdict("pp=2", frozen="front").legal and verdict("pp=2,schedule=interleaved", frozen="front").legal


@pytest.mark.parametrize("schedule", ["ScheduleZBVZeroBubble", "ScheduleInterleavedZeroBubble"])
def test_zero_bubble_around_frozen_layers(schedule, torch_pair):
    for off in torch_pair.run(checks.frozen, schedule, 1):
        assert off and all(map(is_right, off.values())), off
    assert verdict("pp=2,schedule=zb-v", frozen="elsewhere").legal


def test_tied_weights_in_a_pipeline_cut_by_hand(torch_pair):
    """Each stage has its own use's gradient, so the copies drift apart; the sum is right."""
    for off in torch_pair.run(checks.tied_by_hand, "Schedule1F1B"):
        assert is_wrong(off["alone"]) and is_right(off["sum"]), off
    assert verdict("pp=2", tied=1).sets("tied weights have one owner")


def test_tied_weights_in_a_pipeline_cut_by_the_tracer(torch_pair):
    (off,) = torch_pair.run(checks.tied_by_tracer, alone=0)
    assert len(off["each"]) == 2 and all(map(is_wrong, off["each"])) and is_right(off["sum"]), off
    assert verdict("pp=2,schedule=zb-v", tied=1).sets("tied weights have one owner")


def test_tied_weights_split_by_parallelize_module(torch_pair):
    """It makes two parameters of one; tied again, the gradient is right."""
    for off in torch_pair.run(checks.tied_by_parallelize, False):
        assert not off["tied"] and is_wrong(off["off"]), off
    for off in torch_pair.run(checks.tied_by_parallelize, True):
        assert is_right(off["off"]), off
    assert verdict("tp=2", tied=1).sets("tied again after splitting")


def test_checkpoints_of_stages_with_names_of_their_own(torch_pair):
    """Two stages that both have a `0.0.weight` overwrite each other's; names of the whole model do not meet."""
    came_back = torch_pair.run(checks.saved, "local")
    assert not all(same for each in came_back for same in each.values())
    came_back = torch_pair.run(checks.saved, "global")
    assert all(same for each in came_back for same in each.values())
    assert not set(came_back[0]) & set(came_back[1])


def test_the_order_that_torch_says_its_1f1b_has(torch_pair):
    """It begins with a micro-batch that was never sent; our verifier does not take it, and takes what it should be."""
    said = torch_pair.run(checks.private_order)[0]
    assert said[1][0] == "1F1"
    with pytest.raises(TableError, match=r"rank 1"):
        verify(_table(said))
    meant = [said[0], [text[:2] + str(int(text[2:]) - 1) if text[1] == "F" else text for text in said[1]]]
    verify(_table(meant))


def _table(rows):
    ranks = tuple(tuple(Action(Kind(text[1]), int(text[0]), int(text[2:])) for text in row) for row in rows)
    return Table(schedule="torch", micro_batches=checks.MICRO_BATCHES, placement=(0, 1), ranks=ranks)
