"""Readable descriptors and their callbacks."""

import os
import socket

import pytest

from manyhands.engine import Loop


@pytest.fixture
def loop():
    made = Loop()
    yield made
    made.close()


def test_callbacks_come_for_what_is_readable(loop):
    read, write = os.pipe()
    left, right = socket.socketpair()
    seen = []
    loop.watch(read, lambda: seen.append(os.read(read, 10)))
    loop.watch(left, lambda: seen.append(left.recv(10)))
    loop.run_once(0)
    assert seen == []
    os.write(write, b"pipe")
    loop.run_once(10)
    right.send(b"socket")
    loop.run_once(10)
    assert seen == [b"pipe", b"socket"]
    loop.unwatch(read)
    loop.unwatch(read)
    os.write(write, b"unheard")
    loop.run_once(-1)
    assert len(seen) == 2
    loop.unwatch(left)
    for descriptor in (read, write):
        os.close(descriptor)
    left.close()
    right.close()


def test_a_closed_source_can_be_unwatched(loop):
    left, right = socket.socketpair()
    loop.watch(left, lambda: None)
    loop.unwatch(left)
    left.close()
    loop.unwatch(left)
    right.close()
