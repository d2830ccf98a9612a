"""Single tensors from rank to rank."""

import random

import pytest
import torch
from groups import joined, no_unix, outcomes, until

from manyhands.transport import GroupError, MismatchError, PeerLostError


@pytest.fixture(params=["memory", "TCP"])
def groups(request, monkeypatch):
    if request.param == "TCP":
        no_unix(monkeypatch)
    with joined(3) as row:
        yield row


def test_tags_tell_messages_apart_and_one_tags_messages_keep_their_order(groups):
    chance = random.Random(1)
    sizes = [chance.choice([0, 1, 1000, 300_000]) for _ in range(60)]
    sent = [torch.randn(size) for size in sizes]
    futures = [groups[0].send(t, 1, tag=i % 3) for i, t in enumerate(sent)]
    order = list(range(60))
    chance.shuffle(order)
    got = {}
    for i in sorted(range(60), key=lambda i: (order[i % 3], i)):  # one tag after another
        got[i] = torch.zeros(sizes[i])
        futures.append(groups[1].receive(got[i], 0, tag=i % 3))
    assert outcomes(futures) == [None] * 60 + [0] * 60
    assert all(torch.equal(got[i], sent[i]) for i in range(60))


def test_both_may_send_much_before_either_receives(groups):
    rows = [torch.randn(3_000_000) for _ in range(2)]
    futures = [groups[r].send(rows[r], 1 - r) for r in range(2)]
    got = [torch.zeros(3_000_000) for _ in range(2)]
    futures += [groups[r].receive(got[r], 1 - r) for r in range(2)]
    assert outcomes(futures) == [None, None, 1, 0]
    assert torch.equal(got[0], rows[1]) and torch.equal(got[1], rows[0])


def test_from_anybody(groups):
    got = [torch.zeros(1) for _ in range(4)]
    futures = [groups[0].receive(t) for t in got[:2]]
    sends = [groups[r].send(torch.tensor([float(r)]), 0) for r in (1, 2, 1, 2)]
    futures += [groups[0].receive(t) for t in got[2:]]
    senders = outcomes(futures)
    assert sorted(senders) == [1, 1, 2, 2] and outcomes(sends) == [None] * 4
    assert [int(t) for t in got] == senders


@pytest.mark.parametrize("early", [True, False])
def test_a_message_of_another_size_or_dtype_fails_for_its_receiver_alone(groups, early):
    sent = torch.arange(100_000.0)
    outcomes([groups[0].send(sent[:1], 1, tag=9), groups[1].receive(torch.zeros(1), 0, tag=9)])  # now both listen
    for wrong in (torch.zeros(7), torch.zeros(100_000, dtype=torch.int32)):
        futures = [] if early else [groups[1].receive(wrong, 0)]
        futures.append(groups[0].send(sent, 1))
        if early:
            outcomes([futures[0]])
            futures.insert(0, groups[1].receive(wrong, 0))
        error, result = outcomes(futures)
        assert isinstance(error, MismatchError) and "rank 0 sent 400000 bytes" in str(error) and result is None
        assert not wrong.any()
    right = torch.zeros(100_000)
    assert outcomes([groups[0].send(sent, 1), groups[1].receive(right, 0)]) == [None, 0]
    assert torch.equal(right, sent)
    assert outcomes([g.barrier() for g in groups]) == [None] * 3


def test_messages_and_operations_do_not_wait_for_each_other(groups):
    reduced = torch.ones(10)
    late = groups[0].all_reduce(reduced)
    got = torch.zeros(4)
    assert outcomes([groups[0].send(torch.ones(4), 1), groups[1].receive(got, 0)]) == [None, 0]
    assert not late.done() and got.sum() == 4
    assert outcomes([late, *(g.all_reduce(torch.ones(10)) for g in groups[1:])]) == [None] * 3


def test_whoever_waits_for_one_that_left_is_told(groups):
    futures = [groups[0].receive(torch.zeros(1), 2), groups[0].receive(torch.zeros(1))]
    groups[2].close()
    (error,) = outcomes(futures[:1])
    assert isinstance(error, PeerLostError) and error.rank == 2
    assert not futures[1].done(), "another may still send"
    assert outcomes([groups[1].send(torch.ones(1), 0), futures[1]]) == [None, 1]
    (error,) = outcomes([groups[0].send(torch.zeros(1), 2)])
    assert isinstance(error, PeerLostError) and "rank 2" in str(error)


def test_a_message_that_arrived_can_be_received_after_its_sender_left(groups):
    outcomes([groups[2].send(torch.full((1000,), 3.0), 0, tag=5)])
    got = torch.zeros(1)
    outcomes([groups[2].send(torch.ones(1), 0), groups[0].receive(got, 2)])
    groups[2].close()
    first = torch.zeros(1000)
    assert outcomes([groups[0].receive(first, 2, tag=5)]) == [2]
    assert first.sum() == 3000


def test_a_callback_may_send_and_receive(groups):
    got = torch.zeros(2)
    received = []

    def answer(future):
        received.append(groups[1].send(got * 2, 0))

    groups[1].receive(got, 0).add_done_callback(answer)
    back = torch.zeros(2)
    assert outcomes([groups[0].receive(back, 1), groups[0].send(torch.ones(2), 1)]) == [1, None]
    until(lambda: received, "the callback")  # what it sends may arrive before it has returned
    assert back.sum() == 4 and outcomes(received) == [None]


def test_what_waits_when_the_group_is_closed_fails():
    with joined(2) as groups:
        future = groups[0].receive(torch.zeros(1), 1)
    assert isinstance(outcomes([future])[0], GroupError)
    assert isinstance(outcomes([groups[0].receive(torch.zeros(1), 1)])[0], GroupError)
    with joined(1) as (group,), pytest.raises(ValueError, match="no other rank"):
        group.receive(torch.zeros(1))
