"""Runs that lose workers, supervisors, and patience: what comes back, and with which bits."""

import json
import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import warm
from deadlines import DEADLINE, HASTY
from support import EXAMPLES, ROOT, Brake, Run, alive, cli, kill_worker, ledger_positions, side_by_side, train

from manyhands import Trainer
from manyhands.training.jobfile import load_job

TINY = ROOT / "tests" / "jobfiles" / "tiny.py"
STEPS = 150
LONG = (f"--steps={STEPS}", "--evaluate")


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> dict:
    """The result of an undisturbed run of the LONG job."""
    return train(tmp_path_factory.mktemp("calm") / "run", TINY, workers=1, job=LONG)


@pytest.fixture
def brake(tmp_path) -> Brake:
    """Of a LONG run: it goes slowly, and does not end before the brake is released."""
    return Brake(tmp_path / "brake", STEPS - 2, 0.02)


def begin(directory: Path, brake: Brake, *flags: object, workers: int = 2, job: tuple = ()) -> Run:
    return Run.begin(directory, TINY, *flags, workers=workers, job=(*LONG, *brake.job, *job))


def finishes_as(run: Run, expected: dict) -> None:
    assert run.wait() == 0, run.output()
    result = run.result()
    assert result["weights_sha256"] == expected["weights_sha256"]
    assert result["metrics"] == expected["metrics"]
    assert result["deviations"] == 0
    positions = ledger_positions(run.directory.path, result["samples"])
    assert positions == [divmod(p, result["samples"]) for p in range(result["steps"] * 8)]


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_killed_workers_are_replaced(workers, expected, brake, tmp_path):
    """And evaluations do not depend on it."""
    chance = random.Random(workers)
    run = begin(tmp_path / "run", brake, workers=workers)
    for step in (3, 20, 40, 100):
        run.until_step(step)
        run.until(lambda: kill_worker(run, chance), "a worker to kill")
        if step == 40:
            brake.slow_down(0)
    brake.release()
    finishes_as(run, expected)
    assert "SIGKILL" in run.output()
    evaluations = [json.loads(x) for x in run.directory.metrics.read_text().splitlines() if '"evaluation"' in x]
    assert [line["step"] for line in evaluations] == list(range(5, STEPS + 1, 5))


@pytest.mark.slow
def test_all_workers_killed_at_once(expected, brake, tmp_path):
    run = begin(tmp_path / "run", brake, workers=3)
    run.until_step(20)
    for pid in run.workers(3):
        os.kill(pid, signal.SIGKILL)
    brake.release()
    finishes_as(run, expected)


def test_the_template_killed(expected, brake, tmp_path):
    """The process that workers are forked from dies, and all workers with it: a new one is started."""
    run = begin(tmp_path / "run", brake)
    run.until_step(20)
    worker = run.workers(2)[0]
    template = int(Path(f"/proc/{worker}/stat").read_text().rsplit(")", 1)[1].split()[1])
    os.kill(template, signal.SIGKILL)
    brake.release()
    finishes_as(run, expected)


def test_resizes(expected, brake, tmp_path):
    brake.slow_down(0.05)
    run = begin(tmp_path / "run", brake, workers=1)
    run.until_step(1)
    assert cli("resize", tmp_path / "run", "--workers", 4).returncode == 0
    run.workers(4)
    for workers in (2, 3, 1):
        run.until_step(run.step() + 2)
        run.resize(workers)
        run.workers(workers)
    run.until_step(run.step() + 2)
    brake.release()
    finishes_as(run, expected)
    sizes = [json.loads(line)["workers"] for line in run.directory.ledger.read_text().splitlines()]
    assert [size for i, size in enumerate(sizes) if size != sizes[i - 1] or i == 0] == [1, 4, 2, 3, 1]


@pytest.mark.slow
def test_a_newcomer_that_fails_costs_the_resize_not_the_run(expected, brake, tmp_path):
    mark = tmp_path / "mark"
    run = begin(tmp_path / "run", brake, job=("--fault=late", f"--mark={mark}"))
    run.until_step(5)
    mark.touch()
    run.resize(4)
    run.until(lambda: run.ended() or "goes on with 2 worker(s)" in run.output(), "the newcomer to fail")
    brake.release()
    finishes_as(run, expected)
    assert "the data is gone" in run.output()


def test_stop_and_resume(expected, brake, tmp_path):
    """By command, SIGTERM and Ctrl-C: each ends cleanly with a checkpoint and goes on from there."""
    brake.slow_down(0.05)
    run = begin(tmp_path / "run", brake)
    for step, end in (
        (5, lambda process: cli("stop", tmp_path / "run")),
        (10, lambda process: process.send_signal(signal.SIGTERM)),
        (15, lambda process: process.send_signal(signal.SIGINT)),
    ):
        run.until_step(step)
        run.until(lambda run=run: run.ended() or run.show().get("workers"), "the gang")
        end(run.process)
        assert run.wait() == 130, run.output()
        result = run.result()
        assert result["status"] == "stopped"
        assert result["durable_step"] == result["steps"] >= step
        shown = json.loads(cli("show", tmp_path / "run", "--json").stdout)
        assert (shown["status"], shown["step"], shown["workers"]) == ("stopped", result["steps"], [])
        run = Run.resume(tmp_path / "run", "--workers=3")
    brake.release()
    finishes_as(run, expected)


def test_second_interrupt_ends_at_once(tmp_path):
    run = Run.begin(tmp_path / "run", TINY, "--check=off", job=("--pause=600",))
    pids = run.workers(2)
    run.process.send_signal(signal.SIGINT)
    run.until(lambda: run.show().get("status") == "ending", "the first interrupt to be taken")
    run.process.send_signal(signal.SIGINT)
    assert run.wait() == 130
    run.until(lambda: not any(map(alive, pids)), "the workers' end")


def supervisor_killed(run: Run, checkpoints: int) -> list[Path]:
    """Kill it when there are so many checkpoints; they are left."""
    folder = run.directory.checkpoints
    run.until(lambda: run.ended() or len(list(folder.glob("step-*"))) >= checkpoints, "checkpoints")
    pids = run.workers(2)
    run.kill()
    run.until(lambda: not any(map(alive, pids)), "the workers' end")
    return sorted(folder.glob("step-*"))


def test_supervisor_killed(expected, brake, tmp_path):
    """Workers die with it, and the run goes on from its newest checkpoint."""
    run = begin(tmp_path / "run", brake, "--checkpoint-every=10")
    newest = supervisor_killed(run, 1)[-1]
    shown = json.loads(cli("show", tmp_path / "run", "--json").stdout)
    assert shown["status"] == "interrupted"
    # A power cut may also tear the last line of a journal.
    with run.directory.ledger.open("a") as file:
        file.write('{"epoch": 3, "st')
    brake.release()
    run = Run.resume(tmp_path / "run")
    finishes_as(run, expected)
    assert f"checkpoint of step {int(newest.name[5:])}" in run.output()


@pytest.mark.slow
def test_damaged_checkpoints_are_named_and_skipped(expected, brake, tmp_path):
    run = begin(tmp_path / "run", brake, "--checkpoint-every=5")
    kept = supervisor_killed(run, 2)
    state = kept[-1] / "state.safetensors"
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 1
    state.write_bytes(content)
    brake.release()
    run = Run.resume(tmp_path / "run")
    finishes_as(run, expected)
    assert str(kept[-1]) in run.output()
    assert "damaged" in run.output()
    assert f"checkpoint of step {int(kept[-2].name[5:])}" in run.output()


def test_a_hung_worker_is_replaced(expected, tmp_path):
    """A worker that stops itself in the middle of a step is found by its stillness. (That its peer is not blamed,
    test_patience.py shows: here, on a machine that stalls, it may really stand still.)"""
    mark = tmp_path / "mark"
    job = (*LONG, "--fault=stop_self", f"--mark={mark}")
    run = Run.begin(tmp_path / "run", TINY, *HASTY, job=job)
    finishes_as(run, expected)
    blamed = re.findall(r"\(process\s+(\d+)\)\s+has\s+stood\s+still", run.output())
    assert mark.read_text() in blamed
    assert run.result()["recoveries"] == len(blamed)
    assert "File " in run.output()  # the stacks of those that could still print them


@pytest.mark.slow
def test_a_worker_that_dies_in_user_code_once(expected, tmp_path):
    result = train(tmp_path / "run", TINY, job=(*LONG, "--fault=once", f"--mark={tmp_path / 'mark'}"))
    assert result["recoveries"] == 1
    assert result["weights_sha256"] == expected["weights_sha256"]


def test_epochs_see_every_sample_and_output_of_workers_is_shown_with_their_rank(tmp_path):
    job = ("--noisy", "--epochs=3", "--samples=43")
    done = cli("train", TINY, "--workers=2", "--run-dir", tmp_path / "run", "--", *job)
    lines = [line for line in done.stderr.splitlines() if "built a net" in line]
    assert len(lines) == 2
    assert all(line.startswith("[worker") for line in lines)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["steps"] == -(-3 * 43 // 8)
    positions = ledger_positions(tmp_path / "run", 43)
    assert positions[: 3 * 43] == [(epoch, position) for epoch in range(3) for position in range(43)]


def test_without_reproducibility(tmp_path, monkeypatch):
    """Plain sums: as good a model, and every worker still has the same."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    exact = list(Trainer(load_job(TINY, ["--steps=30"])))[-1].loss
    plain = train(tmp_path / "plain", TINY, workers=3, job=("--steps=30", "--no-reproducible"))
    assert plain["loss"] == pytest.approx(exact, rel=1e-4)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk(tmp_path):
    """Training goes on, says so loudly, and what could not be written is written once there is room."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("this sandbox does not allow mounting")
    try:
        brake = Brake(tmp_path / "brake", 118, 0.004)
        job = ("--width=20000", "--steps=120", *brake.job)
        run = Run.begin(disk / "run", TINY, "--checkpoint-every=10", job=job)
        run.until(lambda: "could not be written" in run.output() or run.ended(), "the complaint")
        run.until(lambda: run.ended() or run.show().get("step", 0) > 30, "training to go on")
        assert not run.ended(), run.output()
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        brake.release()
        assert run.wait() == 0, run.output()
        steps = [json.loads(line)["step"] for line in run.directory.ledger.read_text().splitlines()]
        assert steps == list(range(1, 121))
        assert run.result()["durable_step"] == 120
    finally:
        for started in Run.started:
            started.close()
        subprocess.run(["umount", disk], check=True)


def test_own_loop_gives_the_same_weights(tmp_path):
    warm.load("sklearn.datasets")

    def own_loop() -> str:
        done = warm.run([sys.executable, str(EXAMPLES / "own_loop.py"), "--steps=5"], DEADLINE)
        assert done.returncode == 0, done.stderr
        return done.stdout

    said, gang = side_by_side(
        own_loop, lambda: train(tmp_path / "run", EXAMPLES / "digits.py", workers=2, job=("--steps=5",))
    )
    assert gang["weights_sha256"] in said
