"""Messages with descriptors: whole, in order, as data, and an end that is noticed."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyhands.engine import Channel
from manyhands.engine.channel import MAX_MESSAGE

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(max_size=5), v, max_size=4),
    max_leaves=10,
)


@pytest.fixture
def ends():
    left, right = Channel.pair()
    yield left, right
    left.close()
    right.close()


@settings(max_examples=25)
@given(st.lists(st.dictionaries(st.text(max_size=5), json_values, max_size=5), max_size=5))
def test_messages_arrive_whole_and_in_order(messages):
    left, right = Channel.pair()
    for message in messages:
        left.send(message)
    received = [right.receive() for _ in messages]
    assert received == [(message, []) for message in messages]
    assert not right.pending()
    left.close()
    right.close()


def test_the_longest_message_fits_and_a_longer_one_is_refused(ends):
    left, right = ends
    room = MAX_MESSAGE - len('{"a":""}')
    left.send({"a": "x" * room})
    assert len(right.receive()[0]["a"]) == room
    with pytest.raises(ValueError, match=f"{MAX_MESSAGE + 1} bytes is over the bound of {MAX_MESSAGE}"):
        left.send({"a": "x" * (room + 1)})
    assert not right.pending()


@pytest.mark.parametrize("count", [1, 3, 64, 100])
def test_descriptors_arrive_all_and_in_order(ends, count):
    """A worker gets one for every peer."""
    left, right = ends
    read, write = os.pipe()
    originals = [os.dup(write) if index % 2 else os.dup(read) for index in range(count)]
    left.send({"order": "join"}, originals)
    message, received = right.receive()
    try:
        assert message == {"order": "join"}
        assert [os.fstat(d).st_ino for d in received] == [os.fstat(d).st_ino for d in originals]
    finally:
        for descriptor in [read, write, *originals, *received]:
            os.close(descriptor)


def test_descriptors_are_not_passed_on_to_programs_that_a_worker_starts(ends):
    """Else such a program would keep a dead worker's links open, and its peers would not notice."""
    left, right = ends
    left.send({}, [0])
    (received,) = right.receive()[1]
    inheritable = os.get_inheritable(received)
    os.close(received)
    assert not inheritable


def test_the_end_is_noticed_after_what_was_said(ends):
    left, right = ends
    left.send({"last": "words"})
    left.close()
    assert right.pending()
    assert right.receive() == ({"last": "words"}, [])
    assert right.pending()
    assert right.receive() is None and right.receive() is None
    with pytest.raises(OSError):
        right.send({})


def test_nobody_has_to_wait_for_nothing(ends):
    assert not ends[0].pending()
