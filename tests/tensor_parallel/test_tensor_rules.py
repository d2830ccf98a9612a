"""What torch functions do to split tensors, on two workers, and on four that share unevenly."""

import pytest
from rule_checks import BY_GATHERING, all_rules, facts, refusals


@pytest.mark.parametrize("world", [2, 4])
def test_functions_of_shares_are_functions_of_the_whole(gang_of, world):
    for name, (differences, gathered) in gang_of(world).run(all_rules)[0].items():
        assert max(differences) < 2e-5, (name, differences)
        assert bool(gathered) == (name in BY_GATHERING), (name, gathered)


def test_facts_of_the_whole(gang_of):
    gang_of(2).run(facts)


def test_what_cannot_be_done_is_said(gang_of):
    messages = gang_of(2).run(refusals)[0]
    assert len(messages) == 4, messages
    assert all("tp=1" in message for message in messages)
