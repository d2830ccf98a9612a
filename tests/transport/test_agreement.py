"""What ranks tell each other of an operation that takes long."""

import sys
import threading
from itertools import pairwise

from manyhands.transport import PeerLostError
from manyhands.transport.agreement import Agreement


def agreement(said):
    return Agreement(0, lambda peer, frame: said.append((peer, frame)), lambda error: None)


def test_everyone_is_told_once_for_each_operation():
    said = []
    one = agreement(said)
    one.begin("barrier")
    one.take_long([1, 2])
    one.take_long([1, 2])
    one.end()
    one.begin("broadcast")
    one.take_long([2])
    assert [(peer, frame["sequence"], frame["text"]) for peer, frame in said] == [
        (1, 1, "barrier"),
        (2, 1, "barrier"),
        (2, 2, "broadcast"),
    ]


def test_nothing_is_told_of_an_operation_that_has_just_ended():
    said = []
    one = agreement(said)
    one.begin("barrier")
    one.end()
    one.take_long([1])
    assert said == []


def test_what_is_told_is_one_operation_whenever_it_ends():
    said = []
    one = agreement(said)
    over = threading.Event()

    def work():
        for number in range(1, 4000):
            one.begin(str(number))
            one.end()
        over.set()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        thread = threading.Thread(target=work)
        thread.start()
        while not over.is_set():
            one.take_long([1])
        thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert all(frame["text"] == str(frame["sequence"]) for _, frame in said)
    assert all(a["sequence"] < b["sequence"] for (_, a), (_, b) in pairwise(said))


def test_who_leaves_a_broken_group_says_why_first():
    """Else the others might take it for the one that was lost: who found out may still be about to speak."""
    said = []
    agreement = Agreement(0, lambda peer, message: said.append(message), lambda error: None)
    agreement.begin("all_reduce")
    agreement.fail(PeerLostError(3, agreement.context()), tell=False)
    agreement.leave()
    others = Agreement(2, lambda peer, message: None, lambda error: None)
    others.begin("all_reduce")
    for message in said:
        others.hear(0, message)
    assert isinstance(others.broken, PeerLostError)
    assert others.broken.rank == 3
