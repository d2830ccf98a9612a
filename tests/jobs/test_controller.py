"""A controller as a user has it: commands, processes, kills. Jobs end with the weights of an undisturbed run."""

import json
import os
import signal
import sqlite3
import subprocess
import sys

import pytest
from agents import LentHost
from deadlines import DEADLINE
from home import JOB
from support import Brake, cli, ledger_positions, train

STEPS = 60
LONG = (f"--steps={STEPS}",)

pytest.importorskip("starlette", reason="starlette is not installed")


@pytest.fixture
def brake(tmp_path) -> Brake:
    return Brake(tmp_path / "brake", STEPS - 4, 0.01)


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """The weights of one worker that nobody disturbed."""
    return train(tmp_path_factory.mktemp("calm") / "run", JOB, workers=1, job=LONG)["weights_sha256"]


def check_whole(job: dict, calm: str) -> None:
    """It has the weights of the undisturbed run, and used every sample as often."""
    assert job["weights_sha256"] == calm
    from pathlib import Path

    found = ledger_positions(Path(job["directory"]), 40)
    assert found == [(i // 40, i % 40) for i in range(STEPS * 8)]


def test_jobs_queue_for_slots_and_end_with_the_same_weights(home, calm):
    assert "2 slot(s)" in home.up("--slots", 2)
    numbers = [home.submit("--workers", count, job=LONG) for count in (2, 1, 1)]
    assert numbers == [1, 2, 3]
    for number in numbers:
        check_whole(home.until_job(number, "finished"), calm)
    shown = json.loads(home.do("jobs", "--json"))
    assert shown["controller"]["pid"] == home.pid()
    assert [job["workers"] for job in shown["jobs"]] == [[], [], []]
    assert "finished" in home.do("jobs")
    assert "finished 60 steps" in home.do("logs", 1, "-f")
    stays = sqlite3.connect(home.path / "jobs.sqlite").execute("select job, slots, began, ended from stays").fetchall()
    used = sorted((began, ended, len(json.loads(slots))) for _, slots, began, ended in stays)
    for began, _, _ in used:
        assert sum(count for b, e, count in used if b <= began < e) <= 2, "never more than there are slots"


def test_pause_resume_and_cancel(home, brake, calm):
    home.up("--slots", 2)
    number = home.submit("--workers", 2, job=(*LONG, *brake.job))
    home.until_job(number, "running", step=3, workers=2)
    home.do("pause", number)
    paused = home.until_job(number, "paused")
    assert paused["slots"] == [] and paused["step"] < STEPS
    other = home.submit("--workers", 2, job=(*LONG, *brake.job))
    home.until_job(other, "running", step=1)
    home.do("resume", number)
    home.do("cancel", other)
    assert home.until_job(other, "cancelled")["slots"] == []
    home.until_job(number, "running", step=paused["step"] + 1)
    brake.release()
    check_whole(home.until_job(number, "finished"), calm)
    assert "is over: finished" in home.cli("pause", number).stderr
    assert home.cli("cancel", number).returncode == 2


@pytest.mark.slow
def test_a_higher_priority_takes_the_slots(home, brake, calm):
    home.up("--slots", 2)
    low = home.submit("--workers", 2, job=(*LONG, *brake.job))
    home.until_job(low, "running", step=2)
    high = home.submit("--workers", 1, "--priority", 5, job=LONG)
    check_whole(home.until_job(high, "finished"), calm)
    brake.release()
    check_whole(home.until_job(low, "finished"), calm)


@pytest.mark.slow
def test_an_elastic_job_grows_and_makes_room(home, brake, calm):
    home.up("--slots", 3)
    number = home.submit("--workers", "1:8", job=(*LONG, *brake.job))
    home.until_job(number, "running", step=1, workers=3)
    other = home.submit("--workers", 1, job=(*LONG, *brake.job))
    home.until_job(other, "running", step=1, workers=1)
    home.until_job(number, "running", workers=2)
    brake.release()
    for each in (number, other):
        check_whole(home.until_job(each, "finished"), calm)


def test_a_killed_controller_loses_nothing(home, brake, calm):
    home.up("--slots", 2)
    first = home.submit("--workers", 2, job=(*LONG, *brake.job))
    waits = home.submit("--workers", 1, job=LONG)
    running = home.until_job(first, "running", step=2, workers=2)
    home.kill_controller()
    refused = home.cli("jobs")
    assert refused.returncode == 1 and "no controller runs" in refused.stderr and "manyhands up" in refused.stderr
    home.up("--slots", 2)
    found = home.until_job(first, "running", step=running["step"], workers=2)
    assert found["supervisor"] == running["supervisor"], "it ran on, and was found"
    assert home.job(waits)["status"] == "waiting"
    home.kill_controller()
    brake.release()
    home.up("--slots", 2)  # whether it has ended by itself meanwhile or not
    for number in (first, waits):
        check_whole(home.until_job(number, "finished"), calm)


@pytest.mark.slow
def test_a_killed_supervisor_is_replaced(home, brake, calm):
    home.up("--slots", 2)
    number = home.submit("--workers", 2, job=(*LONG, *brake.job))
    running = home.until_job(number, "running", step=5, workers=2)
    os.kill(running["supervisor"], signal.SIGKILL)
    again = home.until(
        lambda shown: shown["jobs"][0]["supervisor"] not in (None, running["supervisor"]), "another supervisor"
    )
    assert again["jobs"][0]["status"] in ("starting", "running")
    brake.release()
    check_whole(home.until_job(number, "finished"), calm)


def test_down_stops_the_jobs_and_up_goes_on(home, brake, calm):
    home.up("--slots", 2)
    number = home.submit("--workers", 2, job=(*LONG, *brake.job))
    running = home.until_job(number, "running", step=2)
    assert "its jobs wait" in home.do("down")
    assert "stopped" in (home.path / "jobs/1/run/result.json").read_text()
    home.up("--slots", 1, "--policy", "fifo")
    assert "it needs 2 slots, and the cluster has 1 now" in home.do("jobs")
    home.do("down")
    home.up("--slots", 4)
    assert home.until_job(number, "running", step=running["step"])["workers"]
    brake.release()
    check_whole(home.until_job(number, "finished"), calm)


@pytest.mark.slow
def test_a_job_that_fails_says_why_and_may_be_tried_again(home, tmp_path):
    home.up("--slots", 1)
    broken = tmp_path / "broken.py"
    broken.write_text("import nothing_like_this\n")
    number = home.submit(file=broken)
    failed = home.until_job(number, "failed")
    assert "nothing_like_this" in failed["error"]
    broken.write_text(JOB.read_text())
    (tmp_path / "brake.py").write_text((JOB.parent / "brake.py").read_text())
    home.do("resume", number)
    home.until_job(number, "finished")


def test_in_the_foreground(home):
    process = subprocess.Popen(
        [sys.executable, "-m", "manyhands", "up", "--foreground", "--port", "0"],
        env=home.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert "a controller runs" in process.stdout.readline()
    assert "page: http://127.0.0.1:" in process.stdout.readline()
    assert home.pid() == process.pid
    process.send_signal(signal.SIGINT)
    assert process.wait(DEADLINE) in (0, 130)
    process.stdout.close()
    assert "no controller runs" in home.cli("jobs").stderr


def test_what_is_refused(home, tmp_path):
    home.up("--slots", 2)
    wrong = {
        ("up",): (1, f"already (process {home.pid()})"),
        ("submit", JOB, "--workers", 3): (2, "needs 3 workers at once, and the cluster has 2 slot(s) in all: here 2"),
        ("submit", JOB, "--workers", "2:1"): (2, "write N, or MIN:MAX"),
        ("submit", JOB, "--workers", "0"): (2, "write N, or MIN:MAX"),
        ("submit", tmp_path / "none.py"): (2, "none.py does not exist"),
        ("submit", JOB, "--layout", "pp=2", "--workers", "1"): (2, "--workers"),
        ("pause", 7): (2, "there is no job 7"),
        ("logs", 7): (2, "there is no job 7"),
        ("move", 7, "--to", "here"): (2, "there is no job 7"),
    }
    for command, (code, text) in wrong.items():
        done = home.cli(*command)
        assert text in done.stderr and done.returncode == code, f"{command}: {done.stderr}"
    assert home.show()["jobs"] == []


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (("--slots", "0"), "--slots must be at least 1"),
        (("--hosts", "here"), "write NAME=NUMBER"),
        (("--hosts", "here=0"), "write NAME=SLOTS"),
        (("--hosts", "here=2", "--slots", "2"), "--hosts says how many"),
        (("--policy", "lottery"), "there is no 'lottery'"),
        (("--shares", "a=0"), "--shares"),
    ],
)
def test_no_controller_is_made_like_this(tmp_path, flags, text):
    done = cli("up", *flags, env={**os.environ, "MANYHANDS_HOME": str(tmp_path / "home")})
    assert done.returncode == 2 and text in done.stderr
    assert not (tmp_path / "home").exists()


def test_hosts_that_are_not_there_are_named(tmp_path):
    flags = ("--hosts", "here=1,127.0.0.1:9=2,127.0.0.2:9=1")
    done = cli("up", *flags, env={**os.environ, "MANYHANDS_HOME": str(tmp_path / "home")})
    assert done.returncode == 1
    assert "127.0.0.1:9 (Connection refused), 127.0.0.2:9 (Connection refused)" in done.stderr


@pytest.fixture
def hosts(home):
    """Two more hosts of this machine, that the home's token opens."""
    home.path.mkdir()
    token = home.path / "token"
    token.write_text("a token that nobody guesses\n")
    lent = [LentHost(token), LentHost(token)]
    yield lent
    for host in lent:
        host.close()


def test_jobs_go_on_elsewhere_when_a_host_is_lost(home, hosts, brake, calm):
    first, second = hosts
    home.up("--hosts", f"{first.name}=2,{second.name}=1")
    number = home.submit("--workers", 2, job=(*LONG, *brake.job))
    single = home.submit("--workers", 1, job=(*LONG, *brake.job))
    home.until_job(number, "running", step=3, workers=2)
    home.until_job(single, "running", step=3, workers=1)
    assert "1 free slot" not in home.cli("move", single, "--to", first.name).stderr
    assert "there is no host nowhere" in home.cli("move", single, "--to", "nowhere").stderr
    assert "has 0 free slot(s)" in home.cli("move", single, "--to", first.name).stderr
    second.kill()
    shown = home.until(lambda shown: [host["there"] for host in shown["hosts"]] == [True, False], "the loss to be seen")
    assert sum(host["slots"] for host in shown["hosts"]) == 3
    home.until_job(single, "waiting")
    assert f"not there: {second.name}" in home.do("jobs")
    brake.release()
    for each in (number, single):
        check_whole(home.until_job(each, "finished"), calm)


@pytest.mark.slow
def test_a_move_to_another_host(home, hosts, brake, calm):
    first, second = hosts
    home.up("--hosts", f"{first.name}=2,{second.name}=2")
    number = home.submit("--workers", 2, job=(*LONG, *brake.job))
    before = home.until_job(number, "running", step=3, workers=2)
    there = {worker["host"] for worker in before["workers"]}
    (to,) = {first.name, second.name} - there
    home.do("move", number, "--to", to)
    home.until(lambda shown: {w["host"] for w in shown["jobs"][0]["workers"]} == {to}, "the move")
    moved = home.until_job(number, "running", workers=2)
    assert moved["supervisor"] == before["supervisor"], "it did not stop for that"
    brake.release()
    check_whole(home.until_job(number, "finished"), calm)
