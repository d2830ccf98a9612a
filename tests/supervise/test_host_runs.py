"""Runs whose workers and servers are on several hosts: the same bits, faults of hosts, and what is refused."""

import os
import random
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import warm
from agents import PIPES, LentHost
from deadlines import DEADLINE
from support import ROOT, Brake, Run, cli, ledger_positions, train

from manyhands.cluster import preset
from manyhands.lab import Lab, obstacle
from manyhands.run import read_journal

JOB = ROOT / "tests" / "jobfiles" / "tiny.py"
STEPS = 60
LONG = (f"--steps={STEPS}", "--evaluate")


@pytest.fixture
def token(tmp_path):
    path = tmp_path / "token"
    path.write_text("a token that nobody guesses\n")
    return path


class Hosts:
    """This machine and some more, of which the first is the one that runs are started on.

    Where there can be a lab they share nothing but a network: on one loopback, what listens on the wrong address is
    found all the same, and who opens a port of another host by mistake gets in.

    Args:
        lab: None: all of them are this machine.
        machines: what starts a command on each.
    """

    def __init__(self, lab: Lab | None, machines: dict[str, Callable], token: Path) -> None:
        self.token, self._lab, self._machines, self._free = token, lab, machines, ["h1", "h2", "h3"]
        self.lent: list[LentHost] = []

    def lend(self, count: int) -> list[LentHost]:
        new = [self._agent() for _ in range(count)]
        self.lent.extend(new)
        return new

    def _agent(self) -> LentHost:
        name = self._free.pop(0)
        start = self._machines[name]
        return LentHost(self.token, lambda command: start(command, **PIPES), "127.0.0.1" if self._lab is None else name)

    def train(self, directory: Path, *flags: object) -> dict:
        """Train to the end; the result."""
        run = self.begin(directory, *flags)
        assert run.wait() == 0, run.output()
        return run.result()

    def begin(self, directory: Path, *flags: object, job: tuple = ()) -> Run:
        words = (JOB, "--run-dir", directory, "--token", self.token, *flags, "--", *LONG, *job)
        return Run(directory, *words, start=self._machines["h0"])

    def resume(self, directory: Path, *flags: object) -> Run:
        return Run.resume(directory, "--token", self.token, *flags, start=self._machines["h0"])

    def kill(self, member: dict) -> None:
        """SIGKILL for a member of a gang, on whatever host."""
        if self._lab is None:
            os.kill(member["pid"], signal.SIGKILL)
        else:
            node = member["host"].split(":")[0].replace("here", "h0")
            assert self._lab.run(node, ["kill", "-KILL", str(member["pid"])]).wait(DEADLINE) == 0

    def close(self) -> None:
        for host in self.lent:
            host.close()


@pytest.fixture(scope="module")
def machines() -> Iterator[tuple[Lab | None, dict[str, Callable]]]:
    names = ("h0", "h1", "h2", "h3")
    if obstacle() is not None:
        yield None, dict.fromkeys(names, warm.popen)
        return
    with Lab(preset("star-4")) as lab, warm.in_lab(lab, names) as starts:
        yield lab, starts


@pytest.fixture
def hosts(machines, token) -> Iterator[Hosts]:
    hosts = Hosts(*machines, token)
    yield hosts
    hosts.close()


@pytest.fixture
def agent(token) -> Iterator[LentHost]:
    """One more host, on the loopback of this one."""
    host = LentHost(token)
    yield host
    host.close()


@pytest.fixture
def brake(tmp_path) -> Brake:
    return Brake(tmp_path / "brake", STEPS - 4, 0.01)


def on(*hosts):
    """Flags for workers on these, one on each."""
    return ("--workers", len(hosts), "--hosts", ",".join(getattr(h, "name", h) for h in hosts))


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """The result of one worker here."""
    return train(tmp_path_factory.mktemp("calm") / "run", JOB, workers=1, job=LONG)


def same(result: dict, calm: dict) -> bool:
    return result["weights_sha256"] == calm["weights_sha256"] and result["metrics"] == calm["metrics"]


@pytest.mark.slow
def test_workers_on_three_hosts(hosts, calm, tmp_path):
    assert same(hosts.train(tmp_path / "run", *on("here", *hosts.lend(2))), calm)
    assert "3 worker(s)" in (tmp_path / "run" / "log.txt").read_text()


@pytest.mark.parametrize(
    "sync",
    [
        pytest.param("server", marks=pytest.mark.slow),
        pytest.param("local,every=4", marks=pytest.mark.slow),
        "server,staleness=2",
    ],
)
def test_servers_have_hosts_of_their_own(hosts, calm, tmp_path, sync):
    others = hosts.lend(2)
    names = ",".join(host.name for host in others)
    flags = on(*others) if sync.startswith("local") else ("--workers", 2, "--server-hosts", names)
    settings = "" if sync.startswith("local") else ",servers=2"
    result = hosts.train(tmp_path / "run", "--sync", sync + settings, *flags)
    if sync == "server":
        assert same(result, calm)
    positions = ledger_positions(tmp_path / "run", result["samples"])
    assert positions == [divmod(p, result["samples"]) for p in range(STEPS * 8)]


@pytest.mark.parametrize("sync", ["allreduce", pytest.param("server,servers=2,staleness=2", marks=pytest.mark.slow)])
def test_kills_anywhere_lose_nothing(hosts, calm, brake, tmp_path, sync):
    run = hosts.begin(tmp_path / "run", *on("here", *hosts.lend(2)), "--sync", sync, job=brake.job)
    chance = random.Random(1)
    for step in (5, 12, 20):
        run.until_step(step)
        found = run.show()
        members = [m for kind in ("workers", "servers") for m in found[kind]]
        hosts.kill(chance.choice([m for m in members if m["host"] != "here"]))
    brake.release()
    assert run.wait() == 0, run.output()
    result = run.result()
    assert ledger_positions(tmp_path / "run", result["samples"])[-1] == divmod(STEPS * 8 - 1, result["samples"])
    if "staleness" not in sync:
        assert same(result, calm), run.output()


def test_a_lost_host_ends_the_run_and_another_takes_its_place(hosts, calm, brake, tmp_path):
    first, second = hosts.lend(2)
    run = hosts.begin(tmp_path / "run", *on("here", first), job=brake.job)
    run.until_step(8)
    first.kill()
    assert run.wait() == 1
    assert first.name in run.output() and "manyhands agent" in run.output() and "--resume" in run.output()
    run = hosts.resume(tmp_path / "run", *on(second, "here"))
    brake.release()
    assert run.wait() == 0, run.output()
    assert same(run.result(), calm)


@pytest.mark.slow
def test_hosts_come_on_the_way(hosts, calm, tmp_path):
    first, second = hosts.lend(2)
    brake = Brake(tmp_path / "brake", STEPS - 4, 0.5)  # until the new host has loaded the job
    run = hosts.begin(tmp_path / "run", *on("here", first), job=brake.job)
    run.until_step(4)
    nowhere = f"127.0.0.1:{free_port()}"
    refused = cli("resize", tmp_path / "run", "--hosts", f"here,{nowhere}")
    assert refused.returncode == 1 and nowhere in refused.stderr
    done = cli("resize", tmp_path / "run", *on("here", first, second))
    assert done.returncode == 0, done.stderr
    run.workers(3)
    assert {w["host"] for w in run.show()["workers"]} == {"here", first.name, second.name}
    brake.release()
    assert run.wait() == 0, run.output()
    assert same(run.result(), calm)


def test_a_run_moves_from_host_to_host(hosts, calm, tmp_path):
    """Its state goes straight from one to the others: nothing is computed again."""
    first, second, third = hosts.lend(3)
    brake = Brake(tmp_path / "brake", STEPS - 4, 0.02)
    run = hosts.begin(tmp_path / "run", *on(first), job=brake.job)
    run.until_step(3)
    for places in ([second], [first, third], [second, "here"]):
        brake.slow_down(0.4)
        names = [getattr(host, "name", host) for host in places]
        done = cli("resize", tmp_path / "run", *on(*places))
        assert done.returncode == 0, done.stderr
        run.until(lambda names=names: [w["host"] for w in run.show().get("workers", [])] == names, f"{names}")
        brake.slow_down(0.02)
        run.until_step(run.step() + 2)
    brake.release()
    assert run.wait() == 0, run.output()
    assert same(run.result(), calm)
    log = (tmp_path / "run" / "log.txt").read_text()
    begun = [int(step) for step in re.findall(r"generation \d+: .* from step (\d+)", log)]
    assert len(begun) == 4, log
    steps = [line["step"] for line in read_journal(tmp_path / "run" / "metrics.jsonl") if line["kind"] == "step"]
    at = [line["step"] for line in read_journal(tmp_path / "run" / "metrics.jsonl") if line.get("change") == "began"]
    assert begun == at, f"it began from what it had, {at}, not from something older\n{log}"
    assert steps == list(range(1, STEPS + 1))


@pytest.mark.slow
def test_a_destination_that_dies_costs_nothing(hosts, calm, tmp_path):
    first, second = hosts.lend(2)
    brake = Brake(tmp_path / "brake", STEPS - 4, 0.1)
    run = hosts.begin(tmp_path / "run", *on("here"), job=brake.job)
    run.until_step(3)
    for host in (first, second):
        resize = threading.Thread(target=cli, args=("resize", tmp_path / "run", "--hosts", host.name))
        resize.start()
        # A host is killed while it is reached for, or starts, or takes the state over: whichever it is at.
        run.until(lambda host=host: any("a run from" in line for line in host.lines), "the run to reach for the host")
        time.sleep(0.0 if host is first else 4.0)
        host.kill()
        resize.join()
        run.until_step(run.step() + 3)
    brake.release()
    assert run.wait() == 0, run.output()
    assert same(run.result(), calm)
    assert [w["host"] for w in run.show().get("workers", [])] in ([], ["here"])


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def test_who_is_not_there_is_named(agent, token, tmp_path):
    """A port that nobody listens on, one that never answers, and one that speaks something else."""
    refusing = f"127.0.0.1:{free_port()}"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        names = [refusing, f"127.0.0.1:{silent.getsockname()[1]}"]
        done = cli("train", JOB, "--run-dir", tmp_path / "run", "--token", token, *on(agent, *names))
    assert done.returncode == 1
    assert all(name in done.stderr for name in names) and agent.name not in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


REFUSED = {
    "--sync server,servers=3 --server-hosts a,b": ["2 host(s)", "3 server(s)", "server,servers=2"],
    "--server-hosts a": ["there are no servers", "--sync server"],
    "--hosts a,a": ["a is there twice"],
    "--hosts a,,b": ["a name is missing"],
    "--hosts a:b": ["NAME:PORT"],
    "--hosts a:99999": ["NAME:PORT"],
}


@pytest.mark.parametrize("flags", REFUSED)
def test_what_cannot_be_is_refused(token, tmp_path, flags):
    done = cli("train", JOB, "--run-dir", tmp_path / "run", "--token", token, *flags.split())
    assert done.returncode == 2, done.stderr
    assert all(word in done.stderr for word in REFUSED[flags]), done.stderr
    assert not (tmp_path / "run").exists()


def test_a_token_is_needed_and_must_be_the_same(agent, tmp_path):
    other = tmp_path / "other"
    words = ("train", JOB, "--run-dir", tmp_path / "run", "--token", other, *on(agent))
    done = cli(*words)
    assert done.returncode == 1 and str(other) in done.stderr and "manyhands agent" in done.stderr
    other.write_text("a token that is another one\n")
    done = cli(*words)
    assert done.returncode == 1 and agent.name in done.stderr and "same token" in done.stderr
    agent.until_line("turned away")
    assert not (tmp_path / "run").exists()
