"""Training from Python: jobs in memory and in files, alive and over, and what cannot be."""

import inspect
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest
import torch
from deadlines import DEADLINE, Deadline
from support import ROOT, alive
from torch import nn

import manyhands
from manyhands import Evaluation, Job, UsageError, UserError, api

TINY = ROOT / "tests" / "jobfiles" / "tiny.py"


class Sums:
    """x, and the sum of x."""

    def __len__(self):
        return 64

    def __getitem__(self, index):
        x = torch.randn(8, generator=torch.Generator().manual_seed(index))
        return x, x.sum()[None]


def job(width: int = 8, steps: int = 12, gate: str = "") -> Job:
    """A small regression; while the file `gate` is there, every forward pass takes a little longer."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(8, width), nn.Linear(width, 1)

        def forward(self, x):
            if gate and os.path.exists(gate):  # noqa: PTH110 in every forward pass
                time.sleep(0.05)
            return self.last(torch.relu(self.first(x)))

    return Job(
        model=Net,
        data=Sums,
        loss=nn.functional.mse_loss,
        optimizer=lambda params: torch.optim.SGD(params, lr=0.01),
        batch_size=8,
        micro_batches=4,
        steps=steps,
        evaluate=Evaluation(data=Sums, metrics={"mae": nn.functional.l1_loss}),
    )


def test_a_function_in_memory_is_trained_with_any_number_of_workers(tmp_path):
    one = api.train(job, run_dir=tmp_path / "one", width=4, quiet=True)
    two = api.train(job, run_dir=tmp_path / "two", workers=2, width=4, quiet=True)
    built = api.train(job(4), run_dir=tmp_path / "built", workers=3, quiet=True, checkpoint_every=5)
    assert one.status == two.status == "finished" and one.exit_code == 0
    assert one.weights_sha256 == two.weights_sha256 == built.weights_sha256
    assert two.step == 12 and [row["step"] for row in two.history] == list(range(1, 13))
    assert two.metrics == one.metrics and set(one.metrics) == {"step", "loss", "lr", "evaluation_loss", "mae"}
    assert json.loads((tmp_path / "one" / "run.json").read_text())["job_name"] == "job"
    assert one.report.is_file()


def test_a_run_lives_while_python_goes_on(tmp_path):
    gate = tmp_path / "gate"
    gate.touch()
    run = api.train(job, run_dir=tmp_path / "run", gate=str(gate), steps=40, wait=False, quiet=True)
    assert run.status == "running"
    run.resize(2)
    run.stop()
    assert run.status == "stopped" and run.exit_code == 130 and run.step < 40
    gate.unlink()
    with pytest.raises(UsageError, match="job is no file"):
        api.resume(tmp_path / "run")
    run = api.resume(tmp_path / "run", job, steps=40, quiet=True)
    assert run.status == "finished"
    whole = api.train(job, run_dir=tmp_path / "whole", steps=40, quiet=True)
    assert run.weights_sha256 == whole.weights_sha256
    assert threading.active_count() == 1


def test_a_file_and_its_flags(tmp_path):
    run = api.train(TINY, run_dir=tmp_path / "run", workers=2, steps=3, quiet=True)
    assert run.step == 3
    assert json.loads((tmp_path / "run" / "run.json").read_text())["arguments"] == ["--steps", "3"]


def broken() -> Job:
    raise ZeroDivisionError("no job today")


@pytest.mark.parametrize(
    ("what", "options", "words"),
    [
        (job, {"workerz": 2}, "unexpected keyword argument 'workerz'"),
        (job(), {"width": 2}, "a Job takes no flags"),
        (job, {"workers": 0}, "--workers must be at least 1"),
        (job, {"patience": -1, "attempts": 0}, "--attempts must be at least 1"),
        (job, {"hosts": "here,elsewhere", "workers": 2}, "no file is trained on this machine alone"),
        (job, {"arguments": ["--width", "2"]}, "Give a function its flags as keywords"),
        (broken, {}, "broken\\(\\) failed: ZeroDivisionError: no job today"),
        (lambda: 7, {}, "must return a manyhands.Job; it returned a int"),
        (7, {}, "takes a job file, a function or a manyhands.Job; it got a int"),
        (TINY, {"layers": [1, 2]}, "layers is a list"),
        ("nowhere.py", {}, "nowhere.py does not exist"),
    ],
)
def test_what_makes_no_sense_is_said_before_anything_is_made(tmp_path, what, options, words):
    with pytest.raises(UsageError, match=words):
        api.train(what, run_dir=tmp_path / "run", quiet=True, **options)
    assert not (tmp_path / "run").exists()


def test_what_goes_wrong_at_the_start_is_raised_though_nobody_waits(tmp_path):
    with pytest.raises(UsageError, match="no job today"):
        api.train(broken, run_dir=tmp_path / "run", wait=False, quiet=True)


def failing() -> Job:
    def loss(output, target):
        raise RuntimeError("this loss is broken")

    made = job()
    return Job(**{**made.__dict__, "loss": loss})


def test_a_run_that_fails_raises_what_it_failed_of(tmp_path):
    with pytest.raises(UserError, match="this loss is broken"):
        api.train(failing, run_dir=tmp_path / "run", quiet=True)
    run = api.train(failing, run_dir=tmp_path / "other", quiet=True, wait=False)
    with pytest.raises(UserError, match="this loss is broken"):
        run.wait(DEADLINE)
    assert run.status == "failed"


def test_the_signature_has_the_plans_options():
    names = inspect.signature(api.train).parameters
    assert {"workers", "layout", "sync", "hosts", "patience", "checkpoint_every", "run_dir", "wait"} <= set(names)
    assert "docs/layouts.md" not in str(names["layout"].default)


def test_a_card_for_notebooks_shows_the_loss(tmp_path):
    run = api.train(job, run_dir=tmp_path / "<run>", quiet=True)
    card = run._repr_html_()
    assert "&lt;run&gt;" in card and "<run>" not in card
    assert "finished, step 12" in card and "<polyline" in card and "mae" in card
    assert repr(run) == f"Run({str(tmp_path / '<run>')!r}, finished, step 12)"


SCRIPT = """
    import sys, time
    sys.path[:0] = {path!r}
    from test_train import job
    from manyhands import api

    run = api.train(job, run_dir={directory!r}, gate={gate!r}, steps=1000, workers=2, quiet=True, wait=False)
    while not run.step:
        time.sleep(0.01)
    import json
    print(json.dumps([worker.pid for worker in run._files.show().workers]), flush=True)
    time.sleep(600)
"""


def test_nobody_survives_a_killed_script(tmp_path):
    gate = tmp_path / "gate"
    gate.touch()
    path = [str(ROOT / "tests" / "api"), str(ROOT / "tests")]
    script = textwrap.dedent(SCRIPT.format(path=path, directory=str(tmp_path / "run"), gate=str(gate)))
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        pids = json.loads(process.stdout.readline())
        assert len(pids) == 2 and all(map(alive, pids))
        process.send_signal(signal.SIGKILL)
        process.wait(DEADLINE)
        end = Deadline()
        while any(map(alive, pids)):
            assert not end.passed, "workers outlive the script"
            time.sleep(0.02)
    finally:
        process.kill()
        process.communicate()


def test_a_runs_model_computes_what_was_evaluated(tmp_path):
    run = api.train(job, run_dir=tmp_path / "run", workers=2, layout="pp=2", quiet=True)
    data = Sums()
    inputs, targets = (torch.stack(part) for part in zip(*(data[i] for i in range(len(data))), strict=True))
    for model in (run.model(), api.load(run.directory, job)):
        assert not model.training
        with torch.no_grad():
            assert float(nn.functional.l1_loss(model(inputs), targets)) == pytest.approx(run.metrics["mae"], rel=1e-5)
    with pytest.raises(UsageError, match="was in memory when the run began"):
        api.load(run.directory)
    with pytest.raises(UserError, match=r"in the checkpoint and"):
        api.load(run.directory, job, {"width": 5})


def test_a_files_run_is_loaded_by_its_directory_alone(tmp_path):
    run = api.train(TINY, run_dir=tmp_path / "run", steps=3, quiet=True)
    assert {name: value.shape for name, value in api.load(run.directory).state_dict().items()}
    with pytest.raises(UsageError, match="holds no run"):
        api.load(tmp_path)


def test_the_package_has_it_by_name():
    assert (manyhands.train, manyhands.resume, manyhands.load, manyhands.Run) == (
        api.train,
        api.resume,
        api.load,
        api.Run,
    )
