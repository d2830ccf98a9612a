"""Tables: what is written is read back, and the verifier finds every fault, and only faults."""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyhands.pipeline import Action, Kind, Table, TableError, high_water, make_table, verify

TWO = "0F0 0F1 0B0 0B1", "1F0 1B0 1F1 1B1"


def table(*ranks, micro_batches=2, placement=(0, 1)):
    actions = tuple(tuple(map(Action.parse, rank.split())) for rank in ranks)
    return Table(schedule="test", micro_batches=micro_batches, placement=placement, ranks=actions)


def is_right(candidate):
    """The rules again, by playing in sweeps over all ranks with sets of (stage, micro-batch)."""
    stages, each = len(candidate.placement), range(candidate.micro_batches)
    forward, back, complete, at = set(), set(), set(), [0] * len(candidate.ranks)
    turn = {(kind, stage): 0 for kind in "FIG" for stage in range(stages)}
    moved = True
    while moved:
        moved = False
        for rank, actions in enumerate(candidate.ranks):
            while at[rank] < len(actions):
                kind, stage, index = actions[at[rank]]
                key, kind = (stage, index), str(kind)
                ready = stage == 0 or (stage - 1, index) in forward
                if kind in "BI":
                    ready = key in forward and (stage == stages - 1 or (stage + 1, index) in back)
                elif kind == "W":
                    ready = key in back
                if not ready or candidate.placement[stage] != rank:
                    break
                for name in {"F": "F", "B": "IG", "I": "I", "W": "G"}[kind]:
                    done = {"F": forward, "I": back, "G": complete}[name]
                    if key in done or turn[name, stage] != index:
                        return False
                    done.add(key)
                    turn[name, stage] += 1
                at[rank], moved = at[rank] + 1, True
    everything = {(stage, index) for stage in range(stages) for index in each}
    ended = all(position == len(actions) for position, actions in zip(at, candidate.ranks, strict=True))
    return ended and forward == back == complete == everything


@given(st.sampled_from(list(Kind)), st.integers(0, 999), st.integers(0, 9999))
def test_an_action_is_read_as_it_was_written(kind, stage, micro_batch):
    action = Action(kind, stage, micro_batch)
    assert str(action) == f"{stage}{kind.value}{micro_batch}"
    assert Action.parse(str(action)) == action


@pytest.mark.parametrize("text", ["", "F", "1F", "F1", "1X2", "1F-2", "1F2B3", " 1F2"])
def test_what_is_no_action_is_not_read_as_one(text):
    with pytest.raises(ValueError, match="is not an action"):
        Action.parse(text)


def test_a_table_is_plain_data():
    for name in ("interleaved", "zb-v"):
        made = make_table(name, 3, 4)
        assert Table.from_dict(json.loads(json.dumps(made.as_dict()))) == made
    assert made.stages_of(1) == (1, 4) and made.stages == 6 and made.world == 3 and made.splits_backward
    assert not make_table("interleaved", 3, 4).splits_backward


def test_live_activations_are_counted_at_each_moment():
    assert verify(table(*TWO)).live == ((1, 2, 1, 0), (1, 0, 1, 0))
    split = verify(table("0F0 0F1 0I0 0I1 0W0 0W1", "1F0 1I0 1F1 1I1 1W0 1W1"))
    assert split.live == ((1, 2, 2, 2, 1, 0), (1, 1, 2, 2, 1, 0))
    assert split.high_water == (2, 2)


def test_high_water_in_bytes_counts_what_each_stage_holds():
    both = table("0F0 1F0 1B0 0F1 1F1 1B1 0B0 0B1", placement=(0, 0))
    assert verify(both).live == ((1, 2, 1, 2, 3, 2, 1, 0),) and verify(both).by_stage == (2, 1)
    assert high_water(both, (10, 1)) == (21,) and high_water(both, (1, 10)) == (12,)


@pytest.mark.parametrize(
    ("ranks", "fault"),
    [
        (("0F0 0F1 0B0", TWO[1]), "rank 0 never does 0I1"),
        (("0F0 0F1 0B0 0I1", TWO[1]), "rank 0 never does 0W1"),
        (("0F0 0F1 0B0 0B1 0B1", TWO[1]), "rank 0, position 4, 0B1: 0B1 was done already, by rank 0, position 3"),
        (("0F0 0F1 0B0 0B1 0W1", TWO[1]), "rank 0, position 4, 0W1: 0B1 was done already, by rank 0, position 3"),
        (("0F0 0F1 0B0 0I1 0B1", TWO[1]), "rank 0, position 4, 0B1: 0I1 was done already, by rank 0, position 3"),
        (("0F0 0F1 0B0 0B1 1F0", TWO[1]), "rank 0, position 4, 1F0: stage 1 is on rank 1"),
        (("0F0 0F1 0B0 0B1 0F2", TWO[1]), "rank 0, position 4, 0F2: there are 2 stages and 2 micro-batches"),
        (("0F0 0F1 0B0 0B1 2F0", TWO[1]), "rank 0, position 4, 2F0: there are 2 stages and 2 micro-batches"),
        (("0F1 0F0 0B0 0B1", TWO[1]), "rank 0, position 0, 0F1: it is micro-batch 0's turn"),
        (("0F0 0F1 0B1 0B0", TWO[1]), "rank 0, position 2, 0B1: it is micro-batch 0's turn"),
        (("0F0 0F1 0I1 0I0 0W0 0W1", TWO[1]), "rank 0, position 2, 0I1: it is micro-batch 0's turn"),
        (("0F0 0F1 0I0 0I1 0W1 0W0", TWO[1]), "rank 0, position 4, 0W1: it is micro-batch 0's turn"),
        (("0F0 0B0 0F1 0B1", "1F0 1F1 1B0 1B1"), "rank 0, position 1, 0B0 waits for 1B0 of rank 1; rank 1, position 1"),
        (("0F0 0F1 0W0 0I0 0B1", TWO[1]), "rank 0, position 2, 0W0 waits for 0I0 of rank 0"),
        (("0B0 0F0 0F1 0B1", TWO[1]), "rank 0, position 0, 0B0 waits for 0F0 of rank 0; rank 1, position 0"),
    ],
)
def test_a_fault_is_told_with_rank_position_and_action(ranks, fault):
    with pytest.raises(TableError) as raised:
        verify(table(*ranks))
    assert fault in str(raised.value)


def test_a_stage_without_a_rank_is_told():
    with pytest.raises(TableError, match="stage 1 is placed on rank 2; there are 2 ranks"):
        verify(table(*TWO, placement=(0, 2)))
    with pytest.raises(TableError, match="at least one stage and one micro-batch"):
        verify(table("", placement=(), micro_batches=1))


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["vanilla", "gpipe", "1f1b", "interleaved", "zb-h1", "zb-v"]),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 3),
    st.randoms(use_true_random=False),
)
def test_whatever_is_done_to_a_table_the_verifier_agrees_with_the_rules(name, ranks, micro_batches, changes, rng):
    made = make_table(name, ranks, micro_batches)
    assert is_right(made)
    changed = [list(actions) for actions in made.ranks]
    for _ in range(changes):
        _change(changed, rng)
    candidate = Table.from_dict({**made.as_dict(), "ranks": [" ".join(map(str, actions)) for actions in changed]})
    try:
        verify(candidate)
        accepted = True
    except TableError:
        accepted = False
    assert accepted == is_right(candidate)


def _change(ranks: list[list[Action]], rng: random.Random) -> None:
    """Swap neighbours, move an action, lose one, do one twice, or exchange what kind one is."""
    actions = rng.choice([actions for actions in ranks if actions] or [[Action(Kind.FORWARD, 0, 0)]])
    at = rng.randrange(len(actions))
    way = rng.choice("nnnmldk")
    if way == "n" and at:
        actions[at - 1], actions[at] = actions[at], actions[at - 1]
    elif way == "m":
        actions.insert(rng.randrange(len(actions)), actions.pop(at))
    elif way == "l":
        del actions[at]
    elif way == "d":
        rng.choice(ranks).insert(rng.randrange(len(actions) + 1), actions[at])
    elif way == "k":
        actions[at] = actions[at]._replace(kind=rng.choice(list(Kind)))
