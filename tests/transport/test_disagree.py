"""Ranks that call different things, or do not come: an error that names both, on every rank, and soon."""

import time

import pytest
import torch
from deadlines import stretched
from groups import DEADLINE, join, joined, no_unix, outcomes, together

from manyhands.transport import GroupError, MismatchError, PeerLostError, WaitedTooLongError
from manyhands.transport.agreement import Agreement

BIG = 1 << 21


@pytest.fixture
def unhurried(monkeypatch):
    """A rank asks another what it is at, and takes the answer whenever it comes."""
    learn = Agreement._learn_why
    monkeypatch.setattr(Agreement, "_learn_why", lambda agreement, seconds: learn(agreement, DEADLINE))


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
def test_different_calls_are_named_on_every_rank(what, network, monkeypatch, unhurried):
    if network == "TCP":
        no_unix(monkeypatch)
    one, other = DISAGREEMENTS[what]
    for world in (2, 3):
        with joined(world) as groups:
            outcomes([g.barrier() for g in groups])
            errors = outcomes([(other if g.rank == 1 else one)(g) for g in groups])
            # What a root sends may find room in the connections: that one is done before anybody can object.
            assert any(errors) if what == "roots, both sending" else all(errors[:2]), errors
            for group, error in zip(groups, errors, strict=True):
                if error is None:  # nobody kept it waiting, but it must not go on
                    (error,) = outcomes([group.barrier()])
                assert isinstance(error, MismatchError), error
                assert "rank 1" in str(error) and "number 2" in str(error)


def test_two_that_disagree_learn_it_though_both_wait_for_a_third():
    with joined(3) as groups:
        for error in outcomes([groups[0].broadcast(zeros(), 2), groups[1].broadcast(zeros(5), 2)]):
            assert isinstance(error, MismatchError) and "rank 0 called" in str(error) and "rank 1 called" in str(error)


def test_another_order_is_named(unhurried):
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
        time.sleep(2.5)  # hosts may be silent for 1.5 s
        assert outcomes([first, groups[1].broadcast(zeros(BIG * 2), 0)]) == [None, None]


@pytest.mark.parametrize("portable", [(), (0, 1, 2)], ids=["C", "Python"])
def test_a_rank_that_never_comes_is_named(portable):
    for patience in (0.5, stretched(20)):  # the longer one if rank 2 was late itself
        with joined(3, portable=portable) as groups:
            outcomes([g.barrier() for g in groups])
            for group in groups:
                group.timeout = patience
            errors = outcomes([groups[r].all_reduce(zeros()) for r in (0, 2)])
            (last,) = outcomes([groups[1].all_reduce(zeros())])
        if all("for rank 1" in str(error) for error in errors):
            break
    assert all(isinstance(error, WaitedTooLongError) and "for rank 1" in str(error) for error in errors), errors
    assert isinstance(last, WaitedTooLongError)


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
    groups = join(2)
    groups[0].timeout = 0.5
    future = groups[0].all_reduce(zeros())
    together(groups[0].close)
    assert isinstance(outcomes([future])[0], GroupError)
    groups[1].close()
