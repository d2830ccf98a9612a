"""Runs under the policies of --sync: faults, resizes and resumption on the way, and what is refused."""

import json
import os
import random
import re
import signal

import pytest
from support import EXAMPLES, ROOT, Brake, Run, cli, kill_worker, ledger_positions, side_by_side, train

from manyhands.errors import UserError
from manyhands.tables import RowAdagrad, TableFile, TableSpec

JOB = ROOT / "tests" / "jobfiles" / "tiny.py"
STEPS = 90
LONG = (f"--steps={STEPS}", "--evaluate")
LOCAL = "local,every=4,outer=nesterov,wire=int8"


@pytest.fixture
def brake(tmp_path) -> Brake:
    return Brake(tmp_path / "brake", STEPS - 4, 0.01)


def begin(directory, sync: str, *job: str, workers: int = 2) -> Run:
    return Run.begin(directory, JOB, "--sync", sync, workers=workers, job=(*LONG, *job))


def finishes(run: Run) -> dict:
    assert run.wait() == 0, run.output()
    result = run.result()
    assert result["steps"] == STEPS
    positions = ledger_positions(run.directory.path, result["samples"])
    assert positions == [divmod(p, result["samples"]) for p in range(result["steps"] * 8)]
    return result


def test_local_steps_survive(brake, tmp_path):
    """Killed workers and a resumption change nothing; all rounds are whole."""
    calm = train(tmp_path / "calm", JOB, "--sync", LOCAL, job=LONG)
    chance = random.Random(0)
    run = begin(tmp_path / "run", LOCAL, *brake.job)
    for step in (4, 12):
        run.until_step(step)
        run.until(lambda: kill_worker(run, chance), "a worker to kill")
    run.until_step(run.step() + 8)
    assert cli("stop", tmp_path / "run").returncode == 0
    assert run.wait() == 130, run.output()
    assert run.result()["durable_step"] % 4 == 0
    run = Run.resume(tmp_path / "run")
    brake.release()
    result = finishes(run)
    assert result["weights_sha256"] == calm["weights_sha256"]
    assert result["metrics"] == calm["metrics"]


@pytest.mark.slow
def test_the_policy_and_the_gang_change_on_the_way(brake, tmp_path):
    run = begin(tmp_path / "run", "allreduce", *brake.job)
    for wanted, workers in [(("--sync", LOCAL), 2), (("--workers", 3), 3), (("--sync", "allreduce"), 3)]:
        run.until_step(run.step() + 4)
        brake.slow_down(0.2)  # that it is not held at the brake before it has heard
        generation = run.show()["generation"]
        done = cli("resize", tmp_path / "run", *wanted)
        assert done.returncode == 0, done.stderr
        run.until(lambda g=generation: run.ended() or run.show().get("generation", 0) > g, str(wanted))
        run.workers(workers)
        brake.slow_down(0.01)
    brake.release()
    finishes(run)


REFUSED = {
    "lokal": ["lokal", "allreduce, server, local"],
    "local,every=0": ["every must be at least 1"],
    "local,steps=4": ["no 'steps'", "every"],
    "local,every=x": ["every is a number"],
    "local,outer=adam": ["outer=adam", "nesterov"],
    "local,wire=int4": ["wire=int4", "int8"],
    "local,outer_lr=2": ["outer=nesterov"],
    "allreduce,every=3": ["every is a setting of local"],
    "server,staleness=-1": ["staleness=-1", "0 (all wait for all)"],
    "server,servers=0": ["servers must be at least 1"],
}


def test_what_makes_no_sense_is_refused(tmp_path):
    found = side_by_side(
        *(lambda t=text: cli("train", JOB, "--sync", t, "--run-dir", tmp_path / "run") for text in REFUSED),
        lambda: cli("train", JOB, "--sync", "local", "--layout", "pp=2", "--run-dir", tmp_path / "run"),
        lambda: cli("train", JOB, "--sync", "local", "--workers", "9", "--run-dir", tmp_path / "run"),
    )
    expected = [*REFUSED.values(), ["local", "pp=2", "--sync allreduce"], ["9 workers", "4 micro-batches"]]
    for done, words in zip(found, expected, strict=True):
        assert done.returncode == 2, done.stderr
        assert all(word in done.stderr for word in words), done.stderr
        assert len(done.stderr.splitlines()) <= 3, done.stderr
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_a_number(tmp_path):
    done = cli("train", JOB, "--sync", LOCAL, "--workers", 2, "--run-dir", tmp_path / "run", "--", "--fault=nan")
    assert done.returncode == 1
    assert "the loss became nan" in done.stderr
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "failed"


def test_a_slow_worker_computes_less_of_the_same(tmp_path):
    job = ("--steps=30", "--pause=0.004", "--micro-batches=8", "--samples=48")
    calm = train(tmp_path / "calm", JOB, "--sync", "allreduce,balance=off", job=job)
    slowed = train(tmp_path / "slow", JOB, "--slow", "1:5", job=job)
    assert slowed["weights_sha256"] == calm["weights_sha256"]
    rows = [json.loads(line) for line in (tmp_path / "slow" / "metrics.jsonl").read_text().splitlines()]
    (event, *_) = [row["event"] for row in rows if row.get("change") == "balanced"]
    first, second = map(int, event.split("shared out ")[1].split(" ")[0].split("/"))
    assert first + second == 8
    assert first > second
    refused = cli("train", JOB, "--slow", "1:0.5", "--run-dir", tmp_path / "run")
    assert refused.returncode == 2
    assert "RANK:FACTOR" in refused.stderr


def test_servers_and_workers_are_killed(brake, tmp_path):
    """And resumed, as one server more, then without: the bits are those of one worker."""
    calm = train(tmp_path / "calm", JOB, workers=1, job=LONG)
    run = begin(tmp_path / "run", "server,servers=2", *brake.job)
    for step, kind in ((3, "servers"), (9, "workers"), (20, "servers")):
        run.until_step(step)
        run.until(lambda k=kind: run.ended() or run.show().get(k), f"{kind} to kill")
        os.kill(run.show()[kind][-1]["pid"], signal.SIGKILL)
    run.until(lambda: run.ended() or run.output().count("SIGKILL") == 3, "all losses to be noticed")
    assert "server 1 (process" in run.output()
    run.until_step(run.step() + 3)
    assert cli("stop", tmp_path / "run").returncode == 0
    assert run.wait() == 130, run.output()
    run = Run.resume(tmp_path / "run", "--sync", "server,servers=3", "--workers", "3")
    for wanted in (("--workers", 1), ("--sync", "server"), ("--sync", "allreduce")):
        run.until_step(run.step() + 3)
        assert cli("resize", tmp_path / "run", *wanted).returncode == 0
    brake.release()
    result = finishes(run)
    assert result["weights_sha256"] == calm["weights_sha256"]
    assert result["metrics"] == calm["metrics"]


LOOSE = "server,servers=2,staleness=3"


def kill(run: Run, kind: str, chance: random.Random) -> None:
    run.until(lambda: run.ended() or run.show().get(kind), f"{kind} to kill")
    os.kill(chance.choice(run.show()[kind])["pid"], signal.SIGKILL)


def lines(directory, kind: str) -> list[dict]:
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == kind]


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_those_who_wait_for_nobody_go_on_when_some_are_killed(seed, brake, tmp_path):
    """No generation ends: the others go on, and whoever takes a place has what was there."""
    chance = random.Random(seed)
    run = begin(tmp_path / "run", LOOSE, *brake.job, workers=3)
    for number, kind in enumerate(chance.sample(["workers", "workers", "servers", "servers"], 4), 1):
        run.until_step(run.step() + 5)
        kill(run, kind, chance)
        run.until(lambda n=number: run.ended() or run.output().count("SIGKILL") == n, "the loss to be noticed")
        run.until(
            lambda: run.ended() or (len(run.show().get("workers", [])), len(run.show().get("servers", []))) == (3, 2),
            "the place to be taken",
        )
    brake.release()
    result = finishes(run)
    assert result["recoveries"] == 4
    assert result["metrics"]["loss"] < 4.0
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "generation 2" not in log
    assert log.count("takes the place of the one that was lost") == 4
    served = lines(tmp_path / "run", "server")
    assert sorted(row["server"] for row in served) == [0, 1]
    assert len(lines(tmp_path / "run", "staleness")) == STEPS


@pytest.mark.slow
def test_the_only_server_is_killed(brake, tmp_path):
    """There is no copy of it: the run goes on from the newest state that was kept."""
    run = begin(tmp_path / "run", "server,staleness=any", *brake.job)
    run.until_step(8)
    kill(run, "servers", random.Random(0))
    brake.release()
    assert finishes(run)["recoveries"] == 1
    assert "generation 2" in (tmp_path / "run" / "log.txt").read_text()


@pytest.mark.slow  # whether they may is shown by test_decide.py
def test_loose_runs_pause_and_change(tmp_path):
    brake = Brake(tmp_path / "brake", STEPS - 4, 0.1)
    run = begin(tmp_path / "run", LOOSE, *brake.job)
    run.until_step(5)
    assert cli("stop", tmp_path / "run").returncode == 0
    assert run.wait() == 130, run.output()
    assert run.result()["durable_step"] >= 5
    run = Run.resume(tmp_path / "run")
    for wanted in (("--workers", 3), ("--sync", "server,servers=3,staleness=any"), ("--sync", "allreduce")):
        run.until_step(run.step() + 5)
        generation = run.show()["generation"]
        assert cli("resize", tmp_path / "run", *wanted).returncode == 0
        run.until(lambda g=generation: run.ended() or run.show().get("generation", 0) > g, str(wanted))
    brake.release()
    finishes(run)


RECOMMEND = ("--steps=60", "--rows=2000", "--batch-size=64", "--micro-batches=4", "--samples=5000")


def rows_of(directory) -> list[int]:
    found = []
    for path in sorted((directory / "tables").glob("*.table")):
        file = TableFile(path, TableSpec(rows=2000, width=16, optimizer=RowAdagrad(lr=0.1), seed=seeds(path), std=0.1))
        found.append(file.digest())
        file.close()
    return found


def seeds(path) -> int:
    """The seed that the file says its rows are drawn from."""
    with pytest.raises(UserError) as refused:
        TableFile(path, TableSpec(rows=2000, width=16, optimizer=RowAdagrad(lr=0.1), seed=0, std=0.1))
    return int(re.search(r"seed\W+(\d{5,})", str(refused.value))[1])


def test_tables_survive(tmp_path):
    """Killed workers and servers, a stop and other servers: the rows are those of a calm run of one worker."""
    job = EXAMPLES / "recommend.py"
    calm = train(tmp_path / "calm", job, workers=1, job=RECOMMEND)
    run = Run.begin(tmp_path / "run", job, "--sync", "server,servers=2", "--slow", "0:9,1:9", job=RECOMMEND)
    for step, kind in ((4, "servers"), (9, "workers")):
        run.until_step(step)
        kill(run, kind, random.Random(0))
    run.until_step(14)
    assert cli("stop", tmp_path / "run").returncode == 0
    assert run.wait() == 130, run.output()
    run = Run.resume(tmp_path / "run", "--sync", "server", "--slow", "")
    assert run.wait() == 0, run.output()
    result = run.result()
    assert result["recoveries"] == 2
    assert result["weights_sha256"] == calm["weights_sha256"]
    assert result["metrics"] == calm["metrics"]
    assert rows_of(tmp_path / "run") == rows_of(tmp_path / "calm")
    refused = cli("train", job, "--workers", 2, "--run-dir", tmp_path / "none", "--", *RECOMMEND)
    assert refused.returncode == 1
    assert "--sync server" in refused.stderr


def test_the_report_tells_when_replicas_agreed(tmp_path):
    for name, sync in (("loose", "server,servers=2,staleness=any"), ("strict", "server"), ("plain", "allreduce")):
        train(tmp_path / name, JOB, "--sync", sync)
        page = (tmp_path / name / "report.html").read_text()
        assert ("When replicas agreed" in page) == (name != "plain")
        assert ("Staleness: pushes of others" in page) == (name == "loose")
        assert ("What servers moved" in page) == (name != "plain")
        assert "2 worker(s) and" in page or name == "plain"
        served = {row["server"]: row for row in lines(tmp_path / name, "server")}
        assert len(served) == {"loose": 2, "strict": 1, "plain": 0}[name]
        assert all(row["received"] > 0 < row["sent"] for row in served.values())


@pytest.mark.parametrize("bound", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_the_bound_holds_between_processes(bound, tmp_path):
    """With one worker eight times slower it is reached, and never exceeded; without a bound it is."""
    job = ("--steps=30", "--pause=0.002")
    for sync, holds in ((f"server,staleness={bound}", True), ("server,staleness=any", False)):
        directory = tmp_path / str(holds)
        train(directory, JOB, "--sync", sync, "--slow", "0:8", workers=3, job=job)
        ahead = max(row["ahead"] for row in lines(directory, "staleness"))
        assert (ahead == bound) if holds else (ahead > 3)


@pytest.mark.slow
def test_a_run_is_stopped_while_a_server_is_missing(brake, tmp_path):
    """Nobody waits for it: the newest state that was kept is what is left."""
    run = begin(tmp_path / "run", LOOSE, *brake.job)
    run.until_step(8)
    os.kill(run.show()["servers"][1]["pid"], signal.SIGKILL)
    run.process.send_signal(signal.SIGTERM)
    assert run.wait() == 130, run.output()
    run = Run.resume(tmp_path / "run")
    brake.release()
    finishes(run)
