"""Workers forked from a template: what they say and print, how they end, and that none is left behind."""

import gc
import os
import select
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from deadlines import DEADLINE, Deadline
from support import alive

from manyhands.engine import Exited, LocalEngine, Loop, Place, Printed, Said
from manyhands.errors import UsageError, UserError
from manyhands.shm import Board

HERE = Path(__file__).parent


class Desk:
    """An engine and everything it has reported."""

    def __init__(self, entry: str, spec: dict | None = None, inherit: tuple[int, ...] = ()) -> None:
        self.events = []
        self.board = Board()
        place = Place(board=self.board.descriptor)
        self.engine = LocalEngine(f"engine_entries:{entry}", spec or {}, place, Loop(), inherit)
        self.engine.report_to(self.events.append)

    def open(self):
        return self.engine.open().facts

    def until(self, condition, what: str) -> None:
        end = Deadline()
        while not condition():
            assert not end.passed, f"waited {end} for {what}; so far: {self.events}"
            self.engine.poll(1.0)

    def said(self, worker: int) -> list:
        return [event.message for event in self.events if isinstance(event, Said) and event.worker == worker]

    def printed(self, worker: int) -> list[str]:
        return [event.line for event in self.events if isinstance(event, Printed) and event.worker == worker]

    def status(self, worker: int):
        """How a worker ended; waits for it."""

        def ended():
            return [event for event in self.events if isinstance(event, Exited) and event.worker == worker]

        self.until(ended, f"the end of worker {worker}")
        assert len(ended()) == 1
        return ended()[0].status

    def start(self, *workers: int) -> list[int]:
        pids = [self.engine.start(worker) for worker in workers]
        self.until(lambda: all(self.said(worker) for worker in workers), f"hello of {workers}")
        return pids

    def do(self, worker: int, what: str, **more) -> None:
        self.engine.send(worker, {"do": what, **more})


@pytest.fixture
def desk(monkeypatch):
    """Makes engines and closes them."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]))
    made = []

    def make(entry: str = "obedient", spec: dict | None = None, inherit: tuple[int, ...] = ()) -> Desk:
        made.append(Desk(entry, spec, inherit))
        return made[-1]

    yield make
    for each in made:
        each.engine.close()


def until_gone(*pids: int) -> None:
    end = Deadline()
    while any(map(alive, pids)):
        assert not end.passed, f"still there: {[pid for pid in pids if alive(pid)]}"
        time.sleep(0.005)


def test_the_entry_is_called_once_with_its_spec_and_workers_are_its_children(desk):
    d = desk(spec={"a": [1, None]})
    facts = d.open()
    assert facts["spec"] == {"a": [1, None]}
    pids = d.start(0, 1)
    for worker, pid in enumerate(pids):
        assert d.said(worker) == [{"say": "hello", "worker": worker, "pid": pid, "parent": facts["template"]}]
    assert facts["template"] != os.getpid()


def test_all_that_a_worker_says_comes_before_its_end_and_in_order(desk):
    d = desk()
    d.open()
    d.start(0)
    d.do(0, "say", times=200)
    d.do(0, "print", text="last words")
    d.do(0, "return")
    assert d.status(0) == 0
    assert [m["say"] for m in d.said(0)[1:]] == list(range(200))
    assert d.printed(0) == ["last words"]
    assert isinstance(d.events[-1], Exited)


def test_output_comes_line_by_line(desk):
    d = desk()
    d.open()
    d.start(0, 1)
    d.do(0, "print", text="one\ntwo\r\nthr")
    d.do(1, "error", text="wrong")
    d.until(lambda: len(d.printed(0)) >= 2 and d.printed(1), "the lines")
    assert (d.printed(0), d.printed(1)) == (["one", "two"], ["wrong"])
    d.do(0, "print", text="ee é\n\n")
    d.until(lambda: len(d.printed(0)) >= 4, "the rest")
    assert d.printed(0) == ["one", "two", "three é", ""]


def test_lines_without_end_and_much_output_are_passed_on(desk):
    d = desk()
    d.open()
    d.start(0)
    d.do(0, "print", text="x" * 60_000)
    d.do(0, "print", text="".join(f"line {index}\n" for index in range(2000)))
    d.do(0, "return")
    assert d.status(0) == 0
    text = "".join(d.printed(0)[:-1999])
    assert text == "x" * 60_000 + "line 0"
    assert d.printed(0)[-1999:] == [f"line {index}" for index in range(1, 2000)]


@pytest.mark.parametrize(
    ("do", "status"),
    [
        ({"do": "return"}, 0),
        ({"do": "exit", "code": 0}, 0),
        ({"do": "exit", "code": 5}, 5),
        ({"do": "exit", "code": "a message"}, 1),
        ({"do": "raise", "text": "on purpose"}, 1),
        ({"do": "signal", "number": signal.SIGSEGV}, -signal.SIGSEGV),
        ({"do": "signal", "number": signal.SIGTERM}, -signal.SIGTERM),
    ],
    ids=str,
)
def test_how_workers_end(desk, do, status):
    d = desk()
    d.open()
    (pid,) = d.start(0)
    d.engine.send(0, do)
    assert d.status(0) == status
    assert not alive(pid)
    if do.get("code") == "a message":
        assert d.printed(0) == ["a message"]
    if do["do"] == "raise":
        assert "RuntimeError: on purpose" in d.printed(0) and d.printed(0)[0].startswith("Traceback")


def test_a_killed_worker_is_reported_and_the_others_go_on(desk):
    d = desk()
    d.open()
    d.start(0, 1)
    d.engine.kill(0)
    assert d.status(0) == -signal.SIGKILL
    d.engine.send(0, {"do": "nothing"})  # to one that is gone: silently nothing
    d.engine.kill(0)
    d.engine.stacks(0)
    d.do(1, "say", times=1)
    d.until(lambda: len(d.said(1)) == 2, "the other one")
    d.start(2)
    assert len(d.said(2)) == 1


def test_sending_to_a_worker_whose_end_is_not_known_yet(desk):
    d = desk()
    d.open()
    (pid,) = d.start(0)
    os.kill(pid, signal.SIGKILL)
    until_gone(pid)
    d.do(0, "say", times=1)
    assert d.status(0) == -signal.SIGKILL


def test_a_worker_that_closes_its_channel_is_not_taken_for_dead(desk):
    d = desk()
    d.open()
    (pid,) = d.start(0)
    d.do(0, "close")
    d.start(1)
    for _ in range(3):
        d.engine.poll(0)
    assert alive(pid)
    d.engine.kill(0)
    assert d.status(0) == -signal.SIGKILL


@pytest.mark.parametrize("world", [2, 3, 5])
def test_connected_workers_can_speak_with_each_other(desk, world):
    d = desk()
    d.open()
    workers = list(range(10, 10 + world))
    d.start(*workers)
    d.engine.connect(workers, [{"do": "link", "rank": rank} for rank in range(world)])
    d.until(lambda: all(len(d.said(worker)) == 2 for worker in workers), "everyone to be heard")
    for rank, worker in enumerate(workers):
        others = [[10 + peer, peer] for peer in range(world) if peer != rank]
        assert d.said(worker)[1]["heard"] == others


def test_inherited_descriptors_keep_their_numbers(desk):
    read, write = os.pipe()
    d = desk(spec={"pipe": write}, inherit=(write,))
    d.open()
    d.start(4)
    d.do(4, "inherited")
    assert select.select([read], [], [], DEADLINE)[0]
    assert os.read(read, 100) == b"from 4"
    os.close(read)
    os.close(write)


def test_a_worker_holds_no_descriptor_of_another(desk):
    """Else a dead peer's links would stay open, and nobody would notice its death."""
    d = desk()
    d.open()
    first, second = d.start(0, 1)

    def sockets(pid):
        targets = [str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()]
        return {target for target in targets if target.startswith("socket:")}

    assert not sockets(first) & sockets(second)


def test_stacks_are_printed(desk):
    d = desk()
    d.open()
    d.start(0)
    d.do(0, "traced")
    d.until(lambda: len(d.said(0)) == 2, "the handler")
    d.engine.stacks(0)
    d.until(lambda: any("engine_entries.py" in line for line in d.printed(0)), "the stack")


@pytest.mark.parametrize("usage", [True, False])
def test_an_entry_that_refuses(desk, usage):
    d = desk("refuses", {"usage": usage})
    with pytest.raises(UserError, match=r"^this entry refuses: use another$") as error:
        d.open()
    assert isinstance(error.value, UsageError) is usage


def test_an_entry_with_a_fault(desk):
    with pytest.raises(UserError) as error:
        desk("breaks").open()
    assert "ZeroDivisionError: an entry with a fault" in str(error.value)
    assert "in breaks" in str(error.value)


@pytest.mark.parametrize("code", [0, 2])
def test_an_entry_that_exits_has_said_why(desk, code, capfd):
    with pytest.raises(SystemExit) as ending:
        desk("exits", {"code": code}).open()
    assert ending.value.code == code
    assert "usage: an entry" in capfd.readouterr().out


def test_an_entry_that_exits_with_a_reason(desk):
    with pytest.raises(UserError, match=r"ends itself: no shard-0003\.tar"):
        desk("exits", {"code": "no shard-0003.tar"}).open()


def test_sets_have_the_same_order_in_every_process(desk):
    def order():
        return desk("orders").open()["order"]

    assert order() == order()


def test_an_entry_whose_process_vanishes(desk):
    with pytest.raises(UserError, match="ended with code 7"):
        desk("vanishes").open()


def test_closing_ends_everything_and_may_be_repeated(desk):
    d = desk()
    template = d.open()["template"]
    pids = d.start(0, 1, 2)
    d.engine.close()
    until_gone(template, *pids)
    d.engine.close()
    assert not [event for event in d.events if isinstance(event, Exited)]


def test_no_descriptor_is_left(desk):
    def count():
        gc.collect()  # what other tests have dropped
        return len(list(Path("/proc/self/fd").iterdir()))

    d = desk()
    before = count()
    d.open()
    d.start(0, 1)
    d.engine.connect([0, 1], [{"do": "link", "rank": 0}, {"do": "link", "rank": 1}])
    d.engine.kill(0)
    d.status(0)
    d.engine.close()
    assert count() == before


def test_workers_die_with_their_template_and_the_next_start_opens_another(desk):
    d = desk()
    template = d.open()["template"]
    pids = d.start(0, 1)
    os.kill(template, signal.SIGKILL)
    assert d.status(0) is None and d.status(1) is None
    until_gone(*pids)
    d.start(2)
    assert d.said(2)[0]["parent"] != template


def test_a_start_that_finds_the_template_dead_opens_another(desk):
    """The supervisor may want a worker before it has heard of the template's end."""
    d = desk()
    template = d.open()["template"]
    (pid,) = d.start(0)
    os.kill(template, signal.SIGKILL)
    until_gone(template, pid)
    d.start(1)
    assert d.said(1)[0]["parent"] != template
    assert d.status(0) is None


SUPERVISOR = """
import sys
from manyhands.engine import LocalEngine, Loop, Place, Said
from manyhands.shm import Board

said, board = [], Board()
engine = LocalEngine("engine_entries:obedient", {}, Place(board=board.descriptor), Loop())
engine.report_to(said.append)
facts = engine.open().facts
pids = [engine.start(worker) for worker in range(3)]
while len(said) < 3:
    engine.poll(1.0)
print(facts["template"], *pids, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_process_survives_a_killed_supervisor(desk, number):
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SUPERVISOR)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert select.select([process.stdout], [], [], DEADLINE)[0], "the supervisor did not start"
        pids = [int(word) for word in process.stdout.readline().split()]
        assert len(pids) == 4 and all(map(alive, pids))
        process.send_signal(number)
        process.wait(DEADLINE)
        until_gone(*pids)
    finally:
        process.kill()
        process.communicate()


def test_a_template_that_still_loads_dies_with_its_supervisor(desk):
    program = (
        "from manyhands.engine import *; from manyhands.shm import Board; board = Board(); "
        'LocalEngine("engine_entries:loads_for_ever", {}, Place(board=board.descriptor), Loop()).open()'
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        assert select.select([process.stdout], [], [], DEADLINE)[0], "the template did not start"
        template = int(process.stdout.readline().split()[1])
        assert alive(template)
        process.kill()
        process.wait(DEADLINE)
        until_gone(template)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("how", ["program", "fork"])
@pytest.mark.parametrize("end", ["return", "kill"])
def test_what_a_worker_has_started_ends_with_it(desk, how, end):
    d = desk()
    d.open()
    d.start(0, 1)
    left = []
    for worker in (0, 1):
        d.do(worker, "leave", how=how)
        d.until(lambda w=worker: len(d.said(w)) > 1, "what it left")
        left.append(d.said(worker)[-1]["pids"][0])
    if end == "kill":
        d.engine.kill(0)
    else:
        d.do(0, "return")
    d.until(lambda: not alive(left[0]), "its end")
    d.until(lambda: any("has started processes" in line for line in d.printed(0)), "word of it")
    assert alive(left[1]), "its worker is there"
    d.do(0, "return")


@pytest.mark.parametrize("how", ["program", "fork", "session", "daemon"])
def test_what_workers_have_started_ends_with_the_run(desk, how):
    d = desk()
    d.open()
    d.start(0, 1)
    for worker in (0, 1):
        d.do(worker, "leave", how=how)
        d.until(lambda w=worker: len(d.said(w)) > 1, "what it left")
    d.do(0, "return")
    assert d.status(0) == 0
    d.engine.close()
    until_gone(*(d.said(worker)[-1]["pids"][0] for worker in (0, 1)))
    told = [event for event in d.events if isinstance(event, Printed) and "has started processes" in event.line]
    assert len(told) == 1


def test_a_flood_of_lines_is_read_in_small_portions(desk):
    d = desk()
    d.open()
    d.start(0)
    d.do(0, "print", text="x\n", times=200_000)
    most, began = 0, time.monotonic_ns()
    while len(d.printed(0)) < 200_000:
        before = len(d.events)
        d.engine.poll(1.0)
        most = max(most, len(d.events) - before)
    assert most < 10_000
    assert d.engine.clogged(0) > began, "it had to wait for its output to be read"


def test_who_goes_on_printing_after_the_worker_is_gone_holds_nobody_up(desk):
    d = desk()
    d.open()
    d.start(0)
    d.do(0, "babble")
    d.until(lambda: len(d.printed(0)) > 1000, "some of it")
    d.do(0, "return")
    assert d.status(0) == 0
