"""The mailbox beside a plain account of what should be matched with what."""

from concurrent.futures import Future

import torch
from hypothesis import given
from hypothesis import strategies as st

from manyhands.transport.mailbox import Arrived, Mailbox, Wanted, raw

PEERS, TAGS = st.integers(0, 2), st.integers(0, 1)
STEPS = st.one_of(
    st.tuples(st.just("comes"), PEERS, TAGS),
    st.tuples(st.just("wanted"), st.one_of(st.none(), PEERS), TAGS),
    st.tuples(st.just("lost"), PEERS, TAGS),
)


def want(peer, tag):
    tensor = torch.zeros(1)
    return Wanted(tensor, raw(tensor), peer, tag, Future())


@given(st.lists(STEPS))
def test_first_come_first_served(steps):
    """Nothing is matched twice, and never is there both a message and somebody who waits for it."""
    box, kept, waiting = Mailbox(), [], []
    for number, (what, peer, tag) in enumerate(steps):
        if what == "comes":
            expected = next((w for w in waiting if w.tag == tag and w.peer in (None, peer)), None)
            assert box.take_wanted(peer, tag) is expected
            if expected is None:
                kept.append(Arrived(peer, tag, torch.float32, torch.tensor([number])))
                box.keep(kept[-1])
            else:
                waiting = [w for w in waiting if w is not expected]
        elif what == "wanted":
            expected = next((a for a in kept if a.tag == tag and peer in (None, a.peer)), None)
            assert box.take_arrived(peer, tag) is expected
            if expected is None:
                waiting.append(want(peer, tag))
                box.want(waiting[-1])
            else:
                kept = [a for a in kept if a is not expected]
        else:
            gone = box.give_up(peer)
            assert [id(w) for w in gone] == [id(w) for w in waiting if w.peer == peer]
            waiting = [w for w in waiting if w.peer != peer]
    assert [id(w) for w in box.give_up()] == [id(w) for w in waiting]
    assert box.give_up() == []
