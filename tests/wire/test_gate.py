"""Who listens goes on listening, whatever strangers do and whatever the kernel says."""

import errno
import socket
import threading
import time
from contextlib import ExitStack

import pytest
from deadlines import DEADLINE, Deadline

from manyhands.wire import Gate, Limits, StrangerError, TurnedAway, introduce

SECRET = b"s" * 32
FEW = Limits(at_once=8, per_address=4, grace=0.02, seconds=DEADLINE)


class Listener(socket.socket):
    """Fails to accept first, as it is told."""

    def __init__(self, *failures: int) -> None:
        super().__init__(socket.AF_INET, socket.SOCK_STREAM)
        self.failures = list(failures)
        self.bind(("127.0.0.1", 0))
        self.listen(1024)

    def accept(self):
        if self.failures:
            raise OSError(self.failures.pop(0), "it cannot")
        return super().accept()


class Open:
    """A gate that is served, and who came in."""

    def __init__(self, stack: ExitStack, *failures: int, limits: Limits = FEW) -> None:
        self.listener = stack.enter_context(Listener(*failures))
        self.address = self.listener.getsockname()
        self.said, self.came = [], []
        self.gate = Gate(self.listener, SECRET, 0, self._enter, TurnedAway(self.said.append), limits, "a gate")
        self.thread = threading.Thread(target=self.gate.serve, daemon=True)
        self.thread.start()
        stack.callback(self.thread.join, DEADLINE)
        stack.callback(self.gate.close)
        self.stack = stack

    def _enter(self, sock, host, purpose) -> None:
        self.stack.enter_context(sock)
        self.came.append(purpose)

    def connect(self, source: str = "127.0.0.1") -> socket.socket:
        return self.stack.enter_context(socket.create_connection(self.address, DEADLINE, (source, 0)))

    def introduce(self, sock: socket.socket, purpose: object = None, secret: bytes = SECRET) -> None:
        introduce(sock, secret, {"to": 0} if purpose is None else purpose, time.monotonic() + DEADLINE)


@pytest.fixture
def stack():
    with ExitStack() as stack:
        yield stack


def until(condition) -> None:
    end = Deadline()
    while not condition():
        assert not end.passed
        time.sleep(0.01)


def test_a_peer_comes_in_while_a_stranger_holds_hundreds_of_connections(stack):
    at = Open(stack)
    for _ in range(200):
        at.connect()
    at.introduce(at.connect())
    until(lambda: at.came == [{"to": 0}])
    assert len([t for t in threading.enumerate() if t.name == "a gate"]) <= FEW.at_once
    assert len(at.said) <= 3, "not a line for each"


def test_the_oldest_of_the_busiest_address_has_to_go(stack):
    at = Open(stack)
    slow = at.connect()
    until(lambda: len(at.gate._within) == 1)
    for source in ("127.0.0.2", "127.0.0.3", "127.0.0.4"):
        for _ in range(10):
            at.connect(source)
    at.introduce(slow)
    until(lambda: at.came)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ECONNABORTED, errno.ENETDOWN, errno.ENOMEM])
def test_it_goes_on_when_accepting_fails(stack, number):
    at = Open(stack, number, number)
    at.introduce(at.connect())
    until(lambda: at.came)


def test_it_goes_on_when_no_thread_can_be_started(stack, monkeypatch):
    at, start, refused = Open(stack), threading.Thread.start, []

    def refuse_once(thread):
        if thread.name == "a gate" and not refused:
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse_once)
    assert at.connect().recv(1) == b""
    at.introduce(at.connect())
    until(lambda: at.came)
    assert "can't start new thread" in at.said[0]


@pytest.mark.parametrize("purpose", [[], 7, "x", {}, {"to": "0"}, {"to": None}, {"to": 1}], ids=str)
def test_who_knows_the_secret_and_says_nonsense_is_turned_away(stack, purpose):
    at = Open(stack)
    sock = at.connect()
    with pytest.raises((StrangerError, ConnectionError)):
        at.introduce(sock, purpose)
    until(lambda: at.said)
    assert len(at.said) == 1 and not at.came
    until(lambda: not [t for t in threading.enumerate() if t.name == "a gate"])


def test_an_introduction_that_is_nested_deeply_is_turned_away(stack, monkeypatch):
    at = Open(stack)
    monkeypatch.setattr("manyhands.wire.handshake.json.dumps", lambda purpose: "[" * 1000)
    with pytest.raises((StrangerError, ConnectionError)):
        at.introduce(at.connect())
    until(lambda: at.said)


def test_strangers_are_counted_and_told_of_once_a_minute():
    now, said = [0.0], []
    told = TurnedAway(said.append, lambda: now[0])
    for number in range(1000):
        told.tell("10.0.0.1", f"reason {number}\n\x1b[31m")
    assert len(said) == 3 and "\x1b" not in said[0] and "\n" not in said[0]
    assert 0 < told.look() <= 60
    now[0] = 61.0
    told.look()
    assert said[3:] == [
        "turned away 997 more connection(s) within a minute, the last one from 10.0.0.1: reason 999??[31m"
    ]
    told.close()
    assert len(said) == 4
