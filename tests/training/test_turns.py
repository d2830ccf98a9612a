"""Tokens on a shared slot: who is in a phase that needs one has it alone, in turn, and loses it with its life."""

import fcntl
import itertools
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import warm

from manyhands.errors import UserError
from manyhands.plan import WAYS
from manyhands.timeline import Recorder
from manyhands.training.turns import Turns

PHASES = ("data", "forward", "backward", "exchange", "optimizer")


class Gang(threading.Thread):
    """A worker that goes through its phases; says in which it is."""

    def __init__(self, file, way, steps, where, mine, lengths) -> None:
        super().__init__()
        self.turns, self.steps, self.where, self.mine, self.lengths = Turns(file, way), steps, where, mine, lengths
        self.waited = 0
        self.seen: list[tuple[str, str]] = []

    def run(self):
        for _ in range(self.steps):
            for phase, length in zip(PHASES, self.lengths, strict=True):
                self.where[self.mine] = ""
                self.turns(phase, self.wait)
                self.where[self.mine] = phase
                other = self.where[1 - self.mine]
                self.seen.append((phase, other))
                time.sleep(length)
                self.seen.append((phase, self.where[1 - self.mine]))
        self.where[self.mine] = ""
        self.turns("idle", self.wait)
        self.turns.close()

    def wait(self):
        self.waited += 1


@pytest.mark.parametrize("way", ["interleave", "ticktock"])
def test_phases_that_need_the_same_token_never_meet(tmp_path, way):
    where = ["", ""]
    # A forward is longer than all the rest of a step of the other: both have to wait, however they begin.
    lengths = [(0.0, 0.008, 0.001, 0.002, 0.0), (0.001, 0.008, 0.001, 0.001, 0.0)]
    gangs = [Gang(tmp_path / "slots" / "0", way, 30, where, i, lengths[i]) for i in (0, 1)]
    for gang in gangs:
        gang.start()
    for gang in gangs:
        gang.join(30)
    table = WAYS[way]
    met = {pair for gang in gangs for pair in gang.seen if pair[1]}
    for mine, other in met:
        assert table.get(mine) is None or table.get(mine) != table.get(other), f"{mine} beside {other}"
    assert any(table.get(mine) and table.get(other) is None for mine, other in met) or way == "ticktock"
    assert all(gang.waited for gang in gangs)


def test_turns_alternate(tmp_path):
    """Whoever lets go does not overtake the one who waits."""
    order = []

    def work(name):
        turns = Turns(tmp_path / "slot", "interleave")
        for _ in range(20):
            turns("forward", lambda: None)
            order.append(name)
            time.sleep(0.002)
            turns("exchange", lambda: None)
        turns.close()

    threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    both = order[order.index("b") if order[0] == "a" else order.index("a") :][:20]
    assert all(first != second for first, second in itertools.pairwise(both)), order


def test_alone_keeps_the_others_standing_until_it_lets_go(tmp_path):
    holder, other = Turns(tmp_path / "slot", "alone"), Turns(tmp_path / "slot", "interleave")
    holder("data", lambda: None)
    holder("exchange", lambda: None)
    other("exchange", lambda: pytest.fail("an exchange needs nothing"))
    got = threading.Event()
    threading.Thread(target=lambda: (other("forward", lambda: None), got.set()), daemon=True).start()
    assert not got.wait(0.2)
    holder.close()
    assert got.wait(10)


def test_a_token_is_lost_with_its_holder(tmp_path):
    code = (
        "import sys, time, pathlib; from manyhands.training.turns import Turns; "
        f"t = Turns(pathlib.Path({str(tmp_path / 'slot')!r}), 'interleave'); t('forward', lambda: None); "
        "print('has it', flush=True); time.sleep(600)"
    )
    process = warm.popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout.readline() == "has it\n"
    turns, got = Turns(tmp_path / "slot", "interleave"), threading.Event()
    threading.Thread(target=lambda: (turns("backward", lambda: None), got.set()), daemon=True).start()
    assert not got.wait(0.2)
    os.kill(process.pid, signal.SIGKILL)
    assert got.wait(10)
    process.wait()
    process.stdout.close()


def test_waiting_is_a_phase_of_its_own(tmp_path):
    holder = Turns(tmp_path / "slot", "alone")
    holder("forward", lambda: None)
    recorder = Recorder()
    recorder.gate = Turns(tmp_path / "slot", "interleave")
    threading.Timer(0.05, holder.close).start()
    recorder.enter("forward", 3)
    recorder.enter("exchange")
    _, spans = recorder.take()
    from manyhands.timeline import PHASES as NAMES

    found = [(NAMES[phase], micro_batch) for phase, micro_batch, *_ in spans]
    assert found[-3:-1] == [("turn", 3), ("forward", 3)]
    waited = next(end - start for phase, _, start, end in spans if NAMES[phase] == "turn")
    assert waited > 0.03e9


def test_what_a_phase_began_is_over_before_the_token_goes(tmp_path):
    settled = []
    turns = Turns(tmp_path / "slot", "interleave", lambda: settled.append(other.taken))
    other = Other(tmp_path / "slot")
    turns("forward", lambda: None)
    assert settled == [] and not other.takes()
    turns("backward", lambda: None)
    assert settled == [], "it needs the same token"
    turns("exchange", lambda: None)
    assert settled == [False] and other.takes()
    turns.close()


class Other:
    """Wants the token of computing, and does not wait for it."""

    def __init__(self, file):
        self.file, self.taken = os.open(file, os.O_RDWR), False

    def takes(self):
        from manyhands.run.lock import region

        try:
            fcntl.fcntl(self.file, fcntl.F_OFD_SETLK, region(fcntl.F_WRLCK, 0, 1))
            self.taken = True
        except OSError:
            pass
        return self.taken


@pytest.mark.parametrize("squat", ["linked file", "linked folder", "open folder", "a stranger's"])
def test_what_a_stranger_may_have_put_there_is_not_used(tmp_path, squat):
    """Shared memory is everybody's: who makes the slot's file first may want another one to be written or locked."""
    folder, victim = tmp_path / "manyhands-slots", tmp_path / "victim"
    file = folder / "slot-0"
    match squat:
        case "linked file":
            folder.mkdir(mode=0o700)
            file.symlink_to(victim)
        case "linked folder":
            (tmp_path / "other").mkdir(mode=0o700)
            folder.symlink_to(tmp_path / "other")
        case "open folder":
            folder.mkdir()
            folder.chmod(0o777)
        case _:
            if os.geteuid() != 0:
                pytest.skip("only root can give a folder away")
            folder.mkdir(mode=0o700)
            os.chown(folder, 65534, 65534)
    with pytest.raises(UserError, match=r"cannot take turns by .*slot-0.*Remove"):
        Turns(file, "interleave")
    assert not victim.exists() and not (tmp_path / "other" / "slot-0").exists()


def test_the_files_are_this_users_alone(tmp_path):
    turns = Turns(tmp_path / "manyhands-slots" / "slot-0", "interleave")
    assert (tmp_path / "manyhands-slots").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "manyhands-slots" / "slot-0").stat().st_mode & 0o777 == 0o600
    turns.close()
