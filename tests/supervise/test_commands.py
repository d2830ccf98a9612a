"""The door of a run's directory: what comes through it is a command, or refused in words."""

import json
import threading
from dataclasses import replace

import pytest
from deadlines import DEADLINE, Deadline

from manyhands.engine import Loop
from manyhands.errors import UserError
from manyhands.run import Done, Process, Resize, RunDirectory, ShareSlots, Status, Stop
from manyhands.supervise.outside import Onlookers, serve_commands

STATUS = Status(
    status="running",
    step=3,
    total_steps=9,
    loss=float("nan"),
    at=None,
    profile={"exchange": 0.5},
    workers=(Process(0, 4711, "here"),),
    servers=(),
    target_workers=1,
    resizes=0,
    settled=True,
    generation=1,
    recoveries=0,
    check="",
    supervisor=42,
)


class Door:
    """A supervisor that does nothing but answer, in a loop of its own."""

    def __init__(self, path):
        self.directory, self.onlookers, self.heard = RunDirectory(path), Onlookers(), []
        self._loop, self._over = Loop(), threading.Event()
        self._listens = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self):
        self._thread.start()
        assert self._listens.wait(DEADLINE)
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join(DEADLINE)

    def _work(self):
        def answer(command, reply):
            self.heard.append(command)
            reply(Done(resizes=len(self.heard)))

        with serve_commands(self._loop, self.directory, answer, self.onlookers):
            self._listens.set()
            while not self._over.is_set():
                self._loop.run_once(0.01)

    def tell(self, data: bytes):
        with self.directory._dial(DEADLINE) as link:
            link.send(data)
            return link.recv(1 << 16)


@pytest.fixture
def door(tmp_path):
    with Door(tmp_path) as door:
        yield door


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b"[]", "no object"),
        (b"null", "no object"),
        (b'{"command": "stop"}', "no message None here"),
        (b'{"kind": "delete"}', "There are: resize, share_slots, show, stop, watch"),
        (b'{"kind": "stop", "now": true}', "has no field 'now'"),
        (b'{"kind": "resize", "workers": "3"}', "resize.workers: '3' is no whole number"),
        (b'{"kind": "resize", "workers": true}', "is no whole number"),
        (b'{"kind": "share_slots"}', "lacks way"),
        (b'{"kind": "share_slots", "way": "turns", "files": "/tmp/x"}', "is no list"),
        (b'{"kind": "share_slots", "way": "turns", "files": [1]}', "is no text"),
    ],
    ids=lambda value: value.decode() if isinstance(value, bytes) else "",
)
def test_what_is_no_command_is_refused_in_words(door, said, words):
    answer = json.loads(door.tell(said))
    assert answer["kind"] == "refused" and words in answer["error"]
    assert not door.heard


@pytest.mark.parametrize(
    "said", [b"{", b"\xff\xfe", b"[" * 30000, b'{"kind": "stop"} {'], ids=lambda said: str(said[:4])
)
def test_what_is_no_json_is_hung_up_on(door, said):
    assert door.tell(said) == b"" and not door.heard
    assert door.directory.ask(Stop(), Done) == Done(1)


def test_commands_arrive_as_they_were_meant(door):
    wanted = [Resize(workers=3, hosts="a,b"), ShareSlots("turns", ("/x", "/y")), ShareSlots(None), Stop()]
    for number, command in enumerate(wanted, 1):
        assert door.directory.ask(command, Done) == Done(number)
    assert door.heard == wanted


def test_onlookers_hear_what_is_news(door):
    with door.directory.watch() as link:
        waited = Deadline()
        while not door.onlookers._links:
            assert not waited.passed
        for status in (STATUS, STATUS, replace(STATUS, step=4), replace(STATUS, settled=False)):
            door.onlookers.tell(lambda status=status: status)
        said = [json.loads(link.recv(1 << 16)) for _ in range(2)]
        assert [(news["step"], news["settled"]) for news in said] == [(3, True), (3, False)], "a step alone can wait"
        assert said[0]["workers"] == [{"rank": 0, "pid": 4711, "host": "here"}]


def test_one_who_says_nothing_is_not_waited_for_long(door):
    with door.directory._dial(DEADLINE), pytest.raises(UserError):
        door.directory.ask(Stop(), Done, timeout=0.1)
    assert door.directory.ask(Stop(), Done).resizes >= 1
