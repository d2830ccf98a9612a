"""The mesh: that the first to leave it (the job is refused, say) does not take from the others what they still need."""

import split_checks


def test_left_while_others_are_still_connecting(gangs):
    assert gangs.gang(3).run(split_checks.leave_at_once, 2) == ["left"] * 3
