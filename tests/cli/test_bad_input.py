"""Whatever a user gets wrong: one clear message, a non-zero exit code, no trace of ours, and nothing lost."""

import os

import pytest
from support import ROOT, Brake, Run, chosen, cli, side_by_side

from manyhands.run import read_json

TINY = ROOT / "tests" / "jobfiles" / "tiny.py"
CROWD = (os.cpu_count() or 1) + 1


def refused(done, code: int, *words: str) -> None:
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


JOB_FILES = {  # more of them: tests/training/test_jobfile.py
    "import nowhere_at_all": ["does not import", "nowhere_at_all", ":1"],
    "def job(a: int = 1):\n    from manyhands import Job\n    return Job(model=1)": ["job()", "missing"],
}
VALUES = {  # (flags, the job's flags)
    ((), ("--depth=3",)): ["--depth"],
    ((), ("--batch-size=10",)): ["batch_size 10", "micro_batches=5"],
    (("--workers=5",), ()): ["5 workers", "4 micro-batches", "--workers 4"],
    (("--workers=0",), ()): ["--workers", "at least 1"],
    (("--device=cuda",), ()): ["CUDA", "--device cpu"],
    (("--snapshot-share=2",), ()): ["--snapshot-share", "between 0 and 1"],
}
MISBEHAVE = {
    "--samples=0": ["data()", "empty dataset"],
    "--fault=shape": ["differ in shape", "sample 7", "[3]"],
    "--fault=pair": ["not a pair (input, target)"],
    "--fault=vector": ["loss must be a scalar", "(2,)", ".mean()"],
    "--fault=raise": ["no such picture", "tiny.py:", "step", "micro-batch"],
    "--fault=exit": ["exited with code 3", "loss number 3"],
    "--fault=segfault": ["SIGSEGV", "loss number 3"],
}
RARE = ("--samples=0", "--fault=pair", "--fault=vector", "--fault=exit")
"""Those much like another."""


@pytest.fixture(scope="module")
def runs(request, tmp_path_factory):
    """The commands of the tests below, side by side: each with its run directory. Most of the time they import
    torch."""
    folder = tmp_path_factory.mktemp("runs")
    commands = {
        "debug": ((TINY, "--debug"), ("--fault=raise",)),
        "crowd": ((TINY, f"--workers={CROWD}"), (f"--micro-batches={CROWD}", f"--batch-size={CROWD}", "--steps=3")),
    }
    for case in chosen(request, "case"):
        if case in JOB_FILES:
            path = folder / f"bad{len(commands)}.py"
            path.write_text(case)
            commands[case] = (path,), ()
        elif case in VALUES:
            commands[case] = (TINY, *case[0]), case[1]
        else:
            commands[case] = (TINY, "--workers=2"), (case,)

    def call(number, command, job):
        directory = folder / f"run{number}"
        return cli("train", *command, "--run-dir", directory, "--", *job), directory, command[0]

    calls = [lambda n=n, c=command, j=job: call(n, c, j) for n, (command, job) in enumerate(commands.values())]
    return dict(zip(commands, side_by_side(*calls), strict=True))


@pytest.mark.parametrize("case", JOB_FILES)
def test_job_files(case, runs):
    done, directory, path = runs[case]
    refused(done, 2, str(path), *JOB_FILES[case])
    assert not directory.exists()


def test_a_job_file_that_does_not_exist(tmp_path):
    refused(cli("train", tmp_path / "no.py"), 2, "no.py does not exist")


def test_neither_job_nor_resume():
    refused(cli("train"), 2, "--resume DIR")


@pytest.mark.parametrize("case", VALUES, ids=lambda case: " ".join([*case[0], *case[1]]))
def test_values_that_do_not_fit(case, runs):
    import torch

    if "--device=cuda" in case[0] and torch.cuda.is_available():
        pytest.skip("this machine has CUDA devices")
    refused(runs[case][0], 2, *VALUES[case])


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow if case in RARE else ()) for case in MISBEHAVE]
)
def test_jobs_that_misbehave(case, runs):
    done, directory, _ = runs[case]
    refused(done, 1, *MISBEHAVE[case])
    assert read_json(directory / "result.json")["status"] == "failed"


def test_a_failure_keeps_the_state(tmp_path):
    """NaN comes at a later step: what was trained before is on disk and resumes to the same failure."""
    done = cli("train", TINY, "--workers=2", "--run-dir", tmp_path / "run", "--", "--fault=nan", "--batch-size=4")
    refused(done, 1, "loss became nan at step", "micro-batch")
    assert "failed" in cli("show", tmp_path / "run").stdout
    step = int(done.stderr.split("at step ")[1].split(",")[0])
    if step > 1:
        assert (tmp_path / "run" / "checkpoints" / f"step-{step - 1:08d}" / "state.safetensors").exists()
        again = cli("train", "--resume", tmp_path / "run")
        refused(again, 1, f"at step {step},")


def test_debug_shows_the_trace(runs):
    done = runs["debug"][0]
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_a_directory_in_use_and_a_directory_that_holds_a_run(tmp_path):
    run = Run.begin(tmp_path / "run", TINY, "--check=off", job=Brake(tmp_path / "brake", 2, 0).job)
    run.workers(2)
    refused(cli("train", "--resume", tmp_path / "run"), 2, "in use by another supervisor", str(run.process.pid))
    refused(cli("train", TINY, "--run-dir", tmp_path / "run"), 2, "holds a run already", "--resume")
    refused(cli("resize", tmp_path / "run", "--workers", 9), 1, "9 workers", "4 micro-batches")


def test_directories_without_a_run(tmp_path):
    for command in (["show"], ["stop"], ["report"], ["resize", "--workers", 2]):
        refused(cli(command[0], tmp_path, *command[1:]), 2, "holds no run")
    refused(cli("train", "--resume", tmp_path / "nowhere"), 2, "holds no run")


def test_a_finished_run_is_neither_stopped_nor_resumed_with_other_flags_or_another_model(tmp_path):
    job_file = tmp_path / "tiny.py"
    job_file.write_text(TINY.read_text())
    (tmp_path / "brake.py").symlink_to(TINY.with_name("brake.py"))
    assert cli("train", job_file, "--run-dir", tmp_path / "run", "--", "--steps=5").returncode == 0
    refused(cli("stop", tmp_path / "run"), 1, "no running supervisor")
    refused(cli("train", "--resume", tmp_path / "run", "--", "--steps=9"), 2, "keeps the flags", "--steps=5")
    job_file.write_text(TINY.read_text().replace("nn.Linear(4, width)", "nn.Linear(4, width, bias=False)"))
    done = cli("train", "--resume", tmp_path / "run")
    refused(done, 1, "checkpoint is of another model", "body.0.bias")
    assert (tmp_path / "run" / "checkpoints" / "step-00000005").is_dir()
    job_file.unlink()
    refused(cli("train", "--resume", tmp_path / "run"), 2, "does not exist any more")


def test_a_run_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    refused(cli("train", TINY, "--run-dir", tmp_path / "file" / "run"), 2, "cannot make the run directory")


def test_more_workers_than_cores_is_a_warning(runs):
    done = runs["crowd"][0]
    assert done.returncode == 0
    assert f"{CROWD} workers share" in done.stderr
