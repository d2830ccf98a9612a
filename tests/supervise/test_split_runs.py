"""Split runs as a user has them: faults, other layouts on the way, and what cannot be, in one clear message."""

import contextlib
import json
import random
from pathlib import Path

import pytest
from deadlines import HASTY
from support import ROOT, Brake, Run, alive, chosen, cli, kill_worker, ledger_positions, side_by_side, train

JOB = ROOT / "tests" / "jobfiles" / "split_net.py"
STEPS = 90
LONG = (f"--steps={STEPS}", "--evaluate")


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> dict:
    """The result of an undisturbed run of the LONG job on one worker."""
    directory = tmp_path_factory.mktemp("calm") / "run"
    result = train(directory, JOB, workers=1, job=LONG)
    return result | {"directory": directory}


@pytest.fixture
def brake(tmp_path) -> Brake:
    return Brake(tmp_path / "brake", STEPS - 2, 0.03)


def begin(directory, layout: str, *job: str, flags: tuple = ()) -> Run:
    return Run(directory, JOB, "--layout", layout, "--run-dir", directory, *flags, "--", *LONG, *job)


def finishes_as(run: Run, expected: dict) -> None:
    assert run.wait() == 0, run.output()
    result = run.result()
    assert result["weights_sha256"] == expected["weights_sha256"]
    assert result["metrics"] == pytest.approx(expected["metrics"], rel=1e-6)  # a last batch is filled up
    positions = ledger_positions(run.directory.path, result["samples"])
    assert positions == [divmod(p, result["samples"]) for p in range(result["steps"] * 8)]


@pytest.mark.parametrize(
    "layout",
    [
        pytest.param("pp=2", marks=pytest.mark.slow),
        "pp=2,dp=2,schedule=zb-h1",
        pytest.param("dp=2,shard=3", marks=pytest.mark.slow),
    ],
)
def test_killed_workers(layout, expected, brake, tmp_path):
    chance = random.Random(layout)
    run = begin(tmp_path / "run", layout, *brake.job)
    for step in (2, 12, 30):
        run.until_step(step)
        run.until(lambda: kill_worker(run, chance), "a worker to kill")
    brake.release()
    finishes_as(run, expected)
    assert "SIGKILL" in run.output()


@pytest.mark.slow
def test_a_hung_worker(expected, tmp_path):
    mark = tmp_path / "mark"
    run = begin(tmp_path / "run", "pp=2", "--fault=stop_self", f"--mark={mark}", flags=HASTY)
    finishes_as(run, expected)
    assert run.result()["recoveries"] >= 1
    assert not alive(int(mark.read_text()))


def test_resizes(expected, brake, tmp_path):
    """Replicas become stages, stages replicas, at step boundaries."""
    run = begin(tmp_path / "run", "pp=2", *brake.job)
    sizes = [2]
    for layout, workers in [
        ("dp=2", 2),
        ("dp=1", 1),
        ("pp=2,dp=2", 4),
        ("dp=2,shard=2", 2),
        ("pp=3,schedule=zb-h1", 3),
    ]:
        run.until_step(run.step() + 2)
        generation = run.show()["generation"]
        done = cli("resize", tmp_path / "run", "--layout", layout)
        assert done.returncode == 0, done.stderr
        run.until(lambda g=generation: run.ended() or run.show().get("generation", 0) > g, layout)
        run.workers(workers)
        sizes.append(workers)
    refused = cli("resize", tmp_path / "run", "--layout", "pp=2,dp=9")
    assert refused.returncode != 0
    assert "micro-batches" in refused.stderr
    run.until_step(run.step() + 2)
    assert cli("resize", tmp_path / "run", "--layout", "pp=3,cuts=layers.1/nowhere").returncode == 0
    run.until(lambda: run.ended() or "The run goes on as pp=3,schedule=zb-h1" in run.output(), "the layout before")
    brake.release()
    finishes_as(run, expected)
    seen = [json.loads(line)["workers"] for line in run.directory.ledger.read_text().splitlines()]
    assert [size for i, size in enumerate(seen) if i == 0 or size != seen[i - 1]] == [2, 1, 4, 2, 3]


@pytest.mark.slow
def test_stops_and_resumes(expected, brake, tmp_path):
    """Each time as another layout; the weights are converted as any others."""
    run = begin(tmp_path / "run", "pp=2,dp=2,schedule=1f1b", *brake.job)
    for step, layout in [(3, "dp=2,shard=1"), (8, "dp=1"), (12, "pp=2,schedule=zb-v")]:
        run.until_step(step)
        assert cli("stop", tmp_path / "run").returncode == 0
        assert run.wait() == 130, run.output()
        result = run.result()
        assert result["durable_step"] == result["steps"] >= step
        run = Run.resume(tmp_path / "run", "--layout", layout)
        run.until(lambda run=run: run.ended() or run.show().get("workers"), "the gang to be back")
    brake.release()
    finishes_as(run, expected)
    converted = []
    for directory in (tmp_path / "run", expected["directory"]):
        output = tmp_path / f"{len(converted)}.safetensors"
        done = cli("convert", directory, "--output", output)
        assert done.returncode == 0, done.stderr
        converted.append(output.read_bytes())
    assert converted[0] == converted[1]


BEFORE = {  # a run begins: (layout, the job's flags): what is said
    ("dp=5", ""): ["5 workers", "4 micro-batches", "--workers 4"],
    ("pp=2,dp=5", ""): ["5 replicas", "4 micro-batches", "--workers 8"],
    ("pp=2,schedule=best", ""): ["schedule=best", "zb-h1"],
    ("pp=2,cuts=a/b", ""): ["cuts=a/b", "3 stages", "there are 2"],
    ("dp=1,shard=2", ""): ["shard=2", "dp"],
}
AFTER = {  # the model is there
    ("pp=2", "--layers=0"): ["2 stages", "nowhere", "--layout dp=2"],
    ("pp=2,cuts=nowhere", ""): ["cuts=nowhere", "cannot be cut there", "layers.1"],
    ("pp=2,cuts=99", ""): ["cuts=99", "cannot be cut there", "layers.1"],
    ("pp=2", "--fault=restless"): ["cannot be cut", "depends on the value of an activation", "split_net.py:"],
    ("pp=2,schedule=zb-h1", "--frozen=2"): ["zb-h1", "frozen", "--layout pp=2"],
    ("dp=2,shard=1", "--optimizer=coupled"): ["optimizer", "whole parameter", "--layout dp=2"],
    ("tp=2", "--optimizer=coupled"): ["optimizer", "whole parameter", "--layout dp=2"],
    ("dp=3,shard=2", ""): ["shard=2", "3 do not divide 4", "--layout dp=3"],
    ("pp=2", "--fault=loss"): ["no opinion", "split_net.py:"],
    ("pp=2", "--fault=raise"): ["this layer is tired", "split_net.py:", "step", "micro-batch"],
    ("pp=2,dp=2", "--fault=nan"): ["loss became nan at step", "micro-batch"],
    ("pp=2", "--fault=lengths --batch-size=4"): ["micro-batch 1", "[1, 5, 6]", "pad or crop"],
    ("pp=2", "--fault=lengths"): ["samples differ in shape", "dataset"],
}
RARE = [
    ("dp=5", ""),
    ("pp=2,cuts=a/b", ""),
    ("pp=2", "--layers=0"),
    ("pp=2,cuts=99", ""),
    ("tp=2", "--optimizer=coupled"),
    ("dp=3,shard=2", ""),
    ("pp=2", "--fault=loss"),
    ("pp=2", "--fault=lengths"),
]
"""Those much like another."""


CASES = [
    pytest.param(case, id="  ".join(case), marks=pytest.mark.slow if case in RARE else ()) for case in (*BEFORE, *AFTER)
]


@pytest.fixture(scope="module")
def refusals(request, tmp_path_factory):
    """The commands of the tests below, side by side, in a folder that their processes have, too."""
    folder = tmp_path_factory.mktemp("runs")
    asked = chosen(request, "case")
    calls = [
        lambda n=n, layout=layout, job=job: cli(
            "train", JOB, "--layout", layout, "--run-dir", folder / str(n), "--", *job.split(), cwd=folder
        )
        for n, (layout, job) in enumerate(asked)
    ]
    return dict(zip(asked, side_by_side(*calls), strict=True)), folder


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be(case, refusals):
    done = refusals[0][case]
    assert done.returncode == (2 if case in BEFORE else 1), done.stderr
    assert "Traceback" not in done.stderr
    for word in (BEFORE | AFTER)[case]:
        assert word in done.stderr, done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("[worker")]
    assert not told  # one message, from one place


def test_no_worker_is_left(refusals):
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or is nobody of ours
            assert (process / "cwd").readlink() != refusals[1], process
