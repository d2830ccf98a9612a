"""Runs whose workers and servers are on several hosts: the same bits, faults of hosts, and what is refused."""

import json
import os
import random
import re
import signal
import socket
import sys
import threading
import time

import pytest
from agents import PIPES, LentHost
from support import DEADLINE, PATIENT, ROOT, Brake, Run, cli, ledger_positions, train

from manyhands.run import read_journal

JOB = ROOT / "tests" / "jobfiles" / "tiny.py"
STEPS = 60
LONG = (f"--steps={STEPS}", "--evaluate")


@pytest.fixture
def token(tmp_path):
    path = tmp_path / "token"
    path.write_text("a token that nobody guesses\n")
    return path


@pytest.fixture
def lend(token):
    """`lend(2)` makes two more hosts of this machine."""
    lent: list[LentHost] = []

    def more(count: int) -> list[LentHost]:
        new = [LentHost(token) for _ in range(count)]
        lent.extend(new)
        return new

    yield more
    for host in lent:
        host.close()


@pytest.fixture
def brake(tmp_path) -> Brake:
    return Brake(tmp_path / "brake", STEPS - 4, 0.01)


def on(token, hosts, *flags):
    return ("--token", token, "--hosts", ",".join(getattr(h, "name", h) for h in hosts), *flags)


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """The result of one worker here."""
    return train(tmp_path_factory.mktemp("calm") / "run", JOB, workers=1, job=LONG)


def same(result: dict, calm: dict) -> bool:
    return result["weights_sha256"] == calm["weights_sha256"] and result["metrics"] == calm["metrics"]


@pytest.mark.slow
def test_workers_on_three_hosts(lend, token, calm, tmp_path):
    hosts = ["here", *lend(2)]
    done = cli("train", JOB, "--run-dir", tmp_path / "run", *on(token, hosts), "--", *LONG)
    assert done.returncode == 0, done.stderr
    assert same(json.loads((tmp_path / "run" / "result.json").read_text()), calm)
    assert "3 worker(s)" in (tmp_path / "run" / "log.txt").read_text()


@pytest.mark.parametrize(
    "sync",
    [
        pytest.param("server", marks=pytest.mark.slow),
        pytest.param("local,every=4", marks=pytest.mark.slow),
        "server,staleness=2",
    ],
)
def test_servers_have_hosts_of_their_own(lend, token, calm, tmp_path, sync):
    servers = lend(2)
    settings = "" if sync.startswith("local") else ",servers=2"
    flags = ["--sync", sync + settings, "--workers", 2, "--token", token]
    if settings:
        flags += ["--server-hosts", ",".join(host.name for host in servers)]
    else:
        flags += ["--hosts", ",".join(host.name for host in servers)]
    done = cli("train", JOB, "--run-dir", tmp_path / "run", *flags, "--", *LONG)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    if sync == "server":
        assert same(result, calm)
    positions = ledger_positions(tmp_path / "run", result["samples"])
    assert positions == [divmod(p, result["samples"]) for p in range(STEPS * 8)]


@pytest.mark.parametrize("sync", ["allreduce", "server,servers=2,staleness=2"])
def test_kills_anywhere_lose_nothing(lend, token, calm, brake, tmp_path, sync):
    hosts = ["here", *lend(2)]
    run = Run.begin(
        tmp_path / "run", JOB, *on(token, hosts, "--sync", sync), PATIENT, workers=3, job=(*LONG, *brake.job)
    )
    chance = random.Random(1)
    for step in (5, 12, 20):
        run.until_step(step)
        found = run.show()
        members = [m for kind in ("workers", "servers") for m in found[kind]]
        os.kill(chance.choice([m for m in members if m["host"] != "here"])["pid"], signal.SIGKILL)
    brake.release()
    assert run.wait() == 0, run.output()
    result = run.result()
    assert ledger_positions(tmp_path / "run", result["samples"])[-1] == divmod(STEPS * 8 - 1, result["samples"])
    if "staleness" not in sync:
        assert same(result, calm), run.output()


def test_a_lost_host_ends_the_run_and_another_takes_its_place(lend, token, calm, brake, tmp_path):
    first, second = lend(2)
    run = Run.begin(tmp_path / "run", JOB, *on(token, ["here", first]), PATIENT, workers=2, job=(*LONG, *brake.job))
    run.until_step(8)
    first.kill()
    assert run.wait() == 1
    assert first.name in run.output() and "manyhands agent" in run.output() and "--resume" in run.output()
    run = Run.resume(tmp_path / "run", *on(token, [second, "here"]))
    brake.release()
    assert run.wait() == 0, run.output()
    assert same(run.result(), calm)


@pytest.mark.slow
def test_hosts_come_on_the_way(lend, token, calm, tmp_path):
    first, second = lend(2)
    brake = Brake(tmp_path / "brake", STEPS - 4, 0.5)  # until the new host has loaded the job
    run = Run.begin(tmp_path / "run", JOB, *on(token, ["here", first]), PATIENT, workers=2, job=(*LONG, *brake.job))
    run.until_step(4)
    nowhere = f"127.0.0.1:{free_port()}"
    refused = cli("resize", tmp_path / "run", "--hosts", f"here,{nowhere}")
    assert refused.returncode == 1 and nowhere in refused.stderr
    done = cli("resize", tmp_path / "run", "--workers", 3, "--hosts", f"here,{first.name},{second.name}")
    assert done.returncode == 0, done.stderr
    run.workers(3)
    assert {w["host"] for w in run.show()["workers"]} == {"here", first.name, second.name}
    brake.release()
    assert run.wait() == 0, run.output()
    assert same(run.result(), calm)


def test_a_run_moves_from_host_to_host(lend, token, calm, tmp_path):
    """Its state goes straight from one to the others: nothing is computed again."""
    first, second, third = lend(3)
    brake = Brake(tmp_path / "brake", STEPS - 4, 0.02)
    run = Run.begin(tmp_path / "run", JOB, *on(token, [first]), PATIENT, workers=1, job=(*LONG, *brake.job))
    run.until_step(3)
    for hosts in ([second], [first, third], [second, "here"]):
        brake.slow_down(0.4)
        names = [getattr(host, "name", host) for host in hosts]
        flags = ("--workers", len(names), "--hosts", ",".join(names))
        done = cli("resize", tmp_path / "run", *flags)
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
def test_a_destination_that_dies_costs_nothing(lend, token, calm, tmp_path):
    first, second = lend(2)
    brake = Brake(tmp_path / "brake", STEPS - 4, 0.1)
    run = Run.begin(tmp_path / "run", JOB, *on(token, ["here"]), PATIENT, workers=1, job=(*LONG, *brake.job))
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


def test_who_is_not_there_is_named_in_time(lend, token, tmp_path):
    """A port that nobody listens on, one that never answers, and one that speaks something else."""
    refusing = f"127.0.0.1:{free_port()}"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        (there,) = lend(1)
        names = [refusing, f"127.0.0.1:{silent.getsockname()[1]}"]
        began = time.monotonic()
        done = cli("train", JOB, "--run-dir", tmp_path / "run", *on(token, [there, *names]), timeout=60)
        took = time.monotonic() - began
    assert done.returncode == 1
    assert all(name in done.stderr for name in names) and there.name not in done.stderr
    assert "Traceback" not in done.stderr
    assert took < 5 + 3, "besides starting Python"
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


def test_a_token_is_needed_and_must_be_the_same(lend, token, tmp_path):
    (host,) = lend(1)
    other = tmp_path / "other"
    done = cli("train", JOB, "--run-dir", tmp_path / "run", *on(other, [host]))
    assert done.returncode == 1 and str(other) in done.stderr and "manyhands agent" in done.stderr
    other.write_text("a token that is another one\n")
    done = cli("train", JOB, "--run-dir", tmp_path / "run", *on(other, [host]))
    assert done.returncode == 1 and host.name in done.stderr and "same token" in done.stderr
    host.until_line("turned away")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("sync", ["allreduce", pytest.param("server,servers=1,staleness=any", marks=pytest.mark.slow)])
def test_machines_that_share_nothing(lab, token, calm, tmp_path, sync):
    """Every host has its own network, names and processes; all that goes between them goes over wires."""
    machines = lab("star-3")
    lent = [LentHost(token, lambda command, n=name: machines.run(n, command, **PIPES), name) for name in ("h1", "h2")]
    try:
        names = [host.name for host in lent]
        both = ["--hosts", ",".join(["here", *names])]
        where = both if sync == "allreduce" else ["--hosts", f"here,{names[0]}", "--server-hosts", names[1]]
        command = [sys.executable, "-m", "manyhands", "train", JOB, "--run-dir", tmp_path / "run", "--token", token]
        process = machines.run("h0", [str(c) for c in [*command, "--sync", sync, *where, "--", *LONG]], **PIPES)
        out, _ = process.communicate(timeout=DEADLINE)
        assert process.returncode == 0, out
        result = json.loads((tmp_path / "run" / "result.json").read_text())
        assert result["steps"] == STEPS
        assert sync != "allreduce" or same(result, calm)
    finally:
        for host in lent:
            host.close()
