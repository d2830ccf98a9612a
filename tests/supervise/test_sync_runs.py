"""Runs under the policies of --sync: faults, resizes and resumption on the way, and what is refused."""

import json
import random

import pytest
from support import PATIENT, ROOT, Brake, Run, cli, kill_worker, ledger_positions, side_by_side, train

JOB = ROOT / "tests" / "jobs" / "tiny.py"
STEPS = 90
LONG = (f"--steps={STEPS}", "--evaluate")
LOCAL = "local,every=4,outer=nesterov,wire=int8"


@pytest.fixture
def brake(tmp_path) -> Brake:
    return Brake(tmp_path / "brake", STEPS - 4, 0.01)


def begin(directory, sync: str, *job: str, workers: int = 2) -> Run:
    return Run.begin(directory, JOB, "--sync", sync, PATIENT, workers=workers, job=(*LONG, *job))


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


def test_the_policy_and_the_gang_change_on_the_way(brake, tmp_path):
    run = begin(tmp_path / "run", "allreduce", *brake.job)
    for wanted, workers in [(("--sync", LOCAL), 2), (("--workers", 3), 3), (("--sync", "allreduce"), 3)]:
        run.until_step(run.step() + 4)
        generation = run.show()["generation"]
        done = cli("resize", tmp_path / "run", *wanted)
        assert done.returncode == 0, done.stderr
        run.until(lambda g=generation: run.ended() or run.show().get("generation", 0) > g, str(wanted))
        run.workers(workers)
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
