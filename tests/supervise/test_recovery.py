"""Runs that lose workers, supervisors, and patience: what comes back, and with which bits."""

import json
import os
import random
import signal
from pathlib import Path

import pytest
from support import EXAMPLES, ROOT, Run, alive, cli, kill_worker, ledger_positions, train

TINY = ROOT / "tests" / "jobs" / "tiny.py"
LONG = ("--pause=0.01", "--steps=150", "--evaluate")


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> str:
    """The weights of an undisturbed run of the LONG job."""
    return train(tmp_path_factory.mktemp("calm") / "run", TINY, workers=1, job=LONG)["weights_sha256"]


def finishes_with(run: Run, expected: str) -> None:
    assert run.wait() == 0, run.output()
    result = run.result()
    assert result["weights_sha256"] == expected
    assert result["deviations"] == 0
    positions = ledger_positions(run.directory.path, result["samples"])
    assert positions == [divmod(p, result["samples"]) for p in range(result["steps"] * 8)]


@pytest.mark.parametrize("workers", [1, 3])
def test_killed_workers_are_replaced(workers, expected, tmp_path):
    chance = random.Random(workers)
    run = Run.begin(tmp_path / "run", TINY, workers=workers, job=LONG)
    for step in (3, 40, 90, 149):
        run.until_step(step)
        kill_worker(run, chance)
    finishes_with(run, expected)
    assert "SIGKILL" in run.output()


def test_all_workers_killed_at_once(expected, tmp_path):
    run = Run.begin(tmp_path / "run", TINY, workers=3, job=LONG)
    run.until_step(50)
    for worker in run.show()["workers"]:
        os.kill(worker["pid"], signal.SIGKILL)
    finishes_with(run, expected)


def test_the_template_killed(expected, tmp_path):
    """The process that workers are forked from dies, and all workers with it: a new one is started."""
    run = Run.begin(tmp_path / "run", TINY, job=LONG)
    run.until_step(30)
    worker = run.show()["workers"][0]["pid"]
    template = int(Path(f"/proc/{worker}/stat").read_text().rsplit(")", 1)[1].split()[1])
    os.kill(template, signal.SIGKILL)
    finishes_with(run, expected)


def test_resizes(expected, tmp_path):
    run = Run.begin(tmp_path / "run", TINY, workers=1, job=LONG)
    run.until_step(1)
    assert cli("resize", tmp_path / "run", "--workers", 4).returncode == 0
    for step, workers in ((60, 4), (70, 2), (90, 3), (110, 1)):
        run.until_step(step)
        assert run.ask(command="resize", workers=workers), run.output()
        run.until(lambda count=workers: run.ended() or len(run.show().get("workers", [])) == count, "the new size")
    finishes_with(run, expected)
    sizes = {json.loads(line)["workers"] for line in run.directory.ledger.read_text().splitlines()}
    assert sizes == {1, 2, 3, 4}


def test_a_newcomer_that_fails_costs_the_resize_not_the_run(expected, tmp_path):
    mark = tmp_path / "mark"
    run = Run.begin(tmp_path / "run", TINY, job=(*LONG, "--fault=late", f"--mark={mark}"))
    run.until_step(20)
    mark.touch()
    assert run.ask(command="resize", workers=4), run.output()
    finishes_with(run, expected)
    assert "the data is gone" in run.output()
    assert "goes on with 2 worker(s)" in run.output()


def test_stop_and_resume(expected, tmp_path):
    """By command, SIGTERM and Ctrl-C: each ends cleanly with a checkpoint and goes on from there."""
    run = Run.begin(tmp_path / "run", TINY, job=("--pause=0.05", *LONG[1:]))  # slow: the commands take their time
    for step, end in (
        (30, lambda process: cli("stop", tmp_path / "run")),
        (60, lambda process: process.send_signal(signal.SIGTERM)),
        (90, lambda process: process.send_signal(signal.SIGINT)),
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
    finishes_with(run, expected)


def test_second_interrupt_ends_at_once(tmp_path):
    run = Run.begin(tmp_path / "run", TINY, job=("--pause=30",))
    run.until(lambda: len(run.show().get("workers", [])) == 2, "the gang")
    pids = [worker["pid"] for worker in run.show()["workers"]]
    run.process.send_signal(signal.SIGINT)
    run.until(lambda: run.show().get("status") == "ending", "the first interrupt to be taken")
    run.process.send_signal(signal.SIGINT)
    assert run.wait(10) == 130
    run.until(lambda: not any(map(alive, pids)), "the workers' end", 10)


def test_supervisor_killed(expected, tmp_path):
    """Workers die with it, and the run goes on from its newest checkpoint."""
    run = Run.begin(tmp_path / "run", TINY, "--checkpoint-every=20", job=LONG)
    run.until_step(75)
    pids = [worker["pid"] for worker in run.show()["workers"]]
    run.kill()
    run.until(lambda: not any(map(alive, pids)), "the workers' end", 10)
    shown = json.loads(cli("show", tmp_path / "run", "--json").stdout)
    assert shown["status"] == "interrupted"
    # A power cut may also tear the last line of a journal.
    with run.directory.ledger.open("a") as file:
        file.write('{"epoch": 3, "st')
    run = Run.resume(tmp_path / "run")
    finishes_with(run, expected)
    assert "checkpoint of step" in run.output()


def test_damaged_checkpoints_are_named_and_skipped(expected, tmp_path):
    run = Run.begin(tmp_path / "run", TINY, "--checkpoint-every=15", job=LONG)
    run.until_step(75)
    run.kill()
    kept = sorted(run.directory.checkpoints.glob("step-*"))
    assert len(kept) >= 2
    state = kept[-1] / "state.safetensors"
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 1
    state.write_bytes(content)
    run = Run.resume(tmp_path / "run")
    finishes_with(run, expected)
    assert str(kept[-1]) in run.output()
    assert "damaged" in run.output()
    assert f"checkpoint of step {int(kept[-2].name[5:])}" in run.output()


def test_a_hung_worker_is_replaced(tmp_path):
    """A worker that stops itself in the middle of a step is found by its stillness, its peer is not blamed."""
    job = ("--fault=stop_self", f"--mark={tmp_path / 'mark'}", "--steps=40")
    run = Run.begin(tmp_path / "run", TINY, "--patience=3", job=job)
    assert run.wait() == 0, run.output()
    calm = train(tmp_path / "calm", TINY, job=("--steps=40",))
    assert run.result()["weights_sha256"] == calm["weights_sha256"]
    assert run.result()["recoveries"] == 1
    assert "stood still" in run.output()
    assert "File " in run.output()  # the stacks of those that could still print them


def test_a_worker_that_dies_in_user_code_once(tmp_path):
    job = ("--fault=once", f"--mark={tmp_path / 'mark'}", "--steps=40")
    result = train(tmp_path / "run", TINY, job=job)
    assert result["recoveries"] == 1


def test_output_of_workers_is_shown_with_their_rank(tmp_path):
    done = cli("train", TINY, "--workers=2", "--run-dir", tmp_path / "run", "--", "--noisy", "--steps=3")
    lines = [line for line in done.stderr.splitlines() if "built a net" in line]
    assert len(lines) == 2
    assert all(line.startswith("[worker") for line in lines)


def test_epochs_see_every_sample(tmp_path):
    result = train(tmp_path / "run", TINY, workers=2, job=("--epochs=3", "--samples=43"))
    assert result["steps"] == -(-3 * 43 // 8)
    positions = ledger_positions(tmp_path / "run", 43)
    assert positions[: 3 * 43] == [(epoch, position) for epoch in range(3) for position in range(43)]


def test_evaluation_does_not_depend_on_interruptions(tmp_path):
    calm = train(tmp_path / "calm", TINY, workers=1, job=LONG)
    run = Run.begin(tmp_path / "run", TINY, workers=3, job=LONG)
    chance = random.Random(3)
    for step in (20, 50, 80, 110, 145):
        run.until_step(step)
        kill_worker(run, chance)
    assert run.wait() == 0
    assert run.result()["metrics"] == calm["metrics"]
    evaluations = [json.loads(x) for x in run.directory.metrics.read_text().splitlines() if '"evaluation"' in x]
    assert [line["step"] for line in evaluations] == list(range(5, 151, 5))


def test_without_reproducibility(tmp_path):
    """Plain sums: as good a model, and every worker still has the same."""
    exact = train(tmp_path / "exact", TINY, workers=3, job=("--steps=30",))
    plain = train(tmp_path / "plain", TINY, workers=3, job=("--steps=30", "--no-reproducible"))
    assert plain["loss"] == pytest.approx(exact["loss"], rel=1e-4)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk(tmp_path):
    """Training goes on, says so loudly, and what could not be written is written once there is room."""
    import subprocess

    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("this sandbox does not allow mounting")
    try:
        job = ("--width=20000", "--pause=0.004", "--steps=120")
        run = Run.begin(disk / "run", TINY, "--checkpoint-every=10", job=job)
        run.until(lambda: "could not be written" in run.output() or run.ended(), "the complaint")
        step = run.show()["step"]
        run.until(lambda: run.show().get("step", 0) > step + 10, "training to go on")
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        assert run.wait() == 0, run.output()
        steps = [json.loads(line)["step"] for line in run.directory.ledger.read_text().splitlines()]
        assert steps == list(range(1, 121))
        assert run.result()["durable_step"] == 120
    finally:
        for started in Run.started:
            started.close()
        subprocess.run(["umount", disk], check=True)


def test_own_loop_gives_the_same_weights(tmp_path):
    import subprocess
    import sys

    done = subprocess.run([sys.executable, EXAMPLES / "own_loop.py", "--steps=5"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    gang = train(tmp_path / "run", EXAMPLES / "digits.py", workers=2, job=("--steps=5",))
    assert gang["weights_sha256"] in done.stdout
