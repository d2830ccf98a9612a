"""Ranks that call different things, or do not come: an error that names both, on every rank, and soon."""

import time

import pytest
import torch
from groups import join, joined, no_unix, outcomes, together

from manyhands.transport import GroupError, MismatchError, PeerLostError, WaitedTooLongError

SOON = 15.0
"""Seconds, on a machine that is overloaded; far below the groups' timeout of 20."""
BIG = 1 << 21


def zeros(count=1000, dtype=torch.float32):
    return torch.zeros(count, dtype=dtype)


DISAGREEMENTS = {
    "operations": (lambda g: g.all_reduce(zeros()), lambda g: g.barrier()),
    "reductions": (lambda g: g.all_reduce(zeros(), "sum"), lambda g: g.all_reduce(zeros(), "max")),
    "dtypes": (lambda g: g.all_reduce(zeros()), lambda g: g.all_reduce(zeros(dtype=torch.int32))),
    "sizes": (lambda g: g.all_reduce(zeros(10)), lambda g: g.all_reduce(zeros(20))),
    "large sizes": (lambda g: g.all_reduce(zeros(BIG)), lambda g: g.all_reduce(zeros(BIG + 1))),
    "roots, both waiting": (lambda g: g.reduce(zeros(), 0), lambda g: g.reduce(zeros(), 1)),
    "roots, both sending": (lambda g: g.broadcast(zeros(BIG), 0), lambda g: g.broadcast(zeros(BIG), 1)),
    "parts": (
        lambda g: g.all_to_all([zeros(3)] * g.world, [zeros(3)] * g.world),
        lambda g: g.all_to_all([zeros(4)] * g.world, [zeros(4)] * g.world),
    ),
    "empty parts": (
        lambda g: g.all_to_all([zeros(0)] * g.world, [zeros(0)] * g.world),
        lambda g: g.all_to_all([zeros(4)] * g.world, [zeros(4)] * g.world),
    ),
}


@pytest.mark.parametrize("network", ["memory", "TCP"])
@pytest.mark.parametrize("what", DISAGREEMENTS)
def test_different_calls_are_named_on_every_rank(what, network, monkeypatch):
    if network == "TCP":
        no_unix(monkeypatch)
    one, other = DISAGREEMENTS[what]
    for world in (2, 3):
        with joined(world) as groups:
            outcomes([g.barrier() for g in groups])
            begun = time.monotonic()
            errors = outcomes([(other if g.rank == 1 else one)(g) for g in groups])
            assert time.monotonic() - begun < SOON
            assert all(errors[:2])
            for group, error in zip(groups, errors, strict=True):
                if error is None:  # nobody kept it waiting, but it must not go on
                    (error,) = outcomes([group.barrier()])
                assert isinstance(error, MismatchError), error
                assert "rank 1" in str(error) and "number 2" in str(error)


def test_two_that_disagree_learn_it_though_both_wait_for_a_third():
    with joined(3) as groups:
        begun = time.monotonic()
        for error in outcomes([groups[0].broadcast(zeros(), 2), groups[1].broadcast(zeros(5), 2)]):
            assert isinstance(error, MismatchError) and "rank 0 called" in str(error) and "rank 1 called" in str(error)
        assert time.monotonic() - begun < SOON


def test_another_order_is_named():
    with joined(2) as groups:
        futures = [groups[0].all_reduce(zeros(5)), groups[0].broadcast(zeros(BIG), 0)]
        futures += [groups[1].broadcast(zeros(BIG), 0), groups[1].all_reduce(zeros(5))]
        for error in outcomes(futures):
            assert isinstance(error, MismatchError)
            assert "all_reduce sum of 5 x float32" in str(error) and f"broadcast root 0 of {BIG}" in str(error)


def test_a_rank_that_comes_late_with_something_else_is_told():
    with joined(2) as groups:
        first = groups[0].reduce(zeros(), 0)
        time.sleep(0.6)
        errors = outcomes([first, groups[1].reduce(zeros(), 1)])
        assert all(isinstance(error, MismatchError) for error in errors), errors


def test_a_rank_that_is_only_late_is_not_lost(monkeypatch):
    """Not even if what is sent to it does not fit its connection for longer than hosts may be silent."""
    no_unix(monkeypatch)
    with joined(2) as groups:
        first = groups[0].broadcast(zeros(BIG * 2), 0)
        time.sleep(4)
        assert outcomes([first, groups[1].broadcast(zeros(BIG * 2), 0)]) == [None, None]


@pytest.mark.parametrize("portable", [(), (0, 1, 2)], ids=["C", "Python"])
def test_a_rank_that_never_comes_is_named(portable):
    with joined(3, timeout=0.5, portable=portable) as groups:
        errors = outcomes([groups[r].all_reduce(zeros()) for r in (0, 2)])
        assert all(isinstance(error, WaitedTooLongError) and "for rank 1" in str(error) for error in errors), errors
        (error,) = outcomes([groups[1].all_reduce(zeros())])
        assert isinstance(error, WaitedTooLongError)


def test_a_rank_that_left_is_named_when_it_is_needed():
    for early in (True, False):
        groups = join(3)
        outcomes([g.barrier() for g in groups])
        futures = [groups[r].all_reduce(zeros(BIG)) for r in (0, 1) if early]
        groups[2].close()
        futures += [groups[r].all_reduce(zeros(BIG)) for r in (0, 1) if not early]
        for error in outcomes(futures):
            assert isinstance(error, PeerLostError)
            assert error.rank == 2 and "left the group" in str(error) and "operation" in str(error)
        together(*(g.close for g in groups))


def test_a_rank_may_leave_as_soon_as_it_is_done():
    for _ in range(20):
        groups = join(3)
        futures = [g.all_reduce(zeros(100_000)) for g in groups]
        results = together(*(g.close for g in groups))
        assert results == [None] * 3 and outcomes(futures) == [None] * 3


def test_all_that_follows_fails_too_with_the_first_reason():
    with joined(2) as groups:
        futures = [groups[0].barrier(), groups[1].all_reduce(zeros())]
        futures += [g.all_reduce(zeros()) for g in groups]
        errors = outcomes(futures)
        assert all(isinstance(error, GroupError) for error in errors), errors
        assert len({str(error) for error in errors}) == 1
        (error,) = outcomes([groups[0].receive(zeros(), 1)])
        assert isinstance(error, GroupError)


def test_closing_does_not_wait_for_ever():
    groups = join(2, timeout=1.0)
    future = groups[0].all_reduce(zeros())
    begun = time.monotonic()
    groups[0].close()
    assert time.monotonic() - begun < SOON
    assert isinstance(outcomes([future])[0], GroupError)
    groups[1].close()
