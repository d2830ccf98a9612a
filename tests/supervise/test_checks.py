"""Whole runs that check themselves: nothing is left of it in what is trained, and what differs is refused."""

import json
import signal
from pathlib import Path

import pytest
from support import CHECKED, Run, cli, train

KEEPS = Path(__file__).parents[1] / "jobfiles/keeps.py"


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return train(tmp_path_factory.mktemp("alone") / "run", KEEPS, *CHECKED, workers=1)["weights_sha256"]


def test_what_a_check_does_is_gone_when_the_training_begins(tmp_path, alone):
    """The model is built once, the data remembers its draws, and the loss looks at the model that was built."""
    found = train(tmp_path / "run", KEEPS, *CHECKED, workers=2)
    assert found["weights_sha256"] == alone
    log = (tmp_path / "run/log.txt").read_text()
    assert "the same bits as one worker, checked in" in log


def test_what_differs_is_refused_before_it_is_trained(tmp_path):
    done = cli("train", KEEPS, *CHECKED, "--workers", 2, "--run-dir", tmp_path / "run", "--", "--moves")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "changes weights (slow)" in done.stderr and "train with --workers 1" in done.stderr
    assert not (tmp_path / "run/ledger.jsonl").read_text()


def test_a_check_may_be_left_out(tmp_path):
    done = cli("train", KEEPS, "--workers", 2, "--run-dir", tmp_path / "run", "--check", "off")
    assert done.returncode == 0, done.stderr
    assert "checked" not in (tmp_path / "run/log.txt").read_text()


def test_a_resize_to_what_differs_goes_back(tmp_path):
    run = Run.begin(tmp_path / "run", KEEPS, *CHECKED, workers=1, job=("--moves", "--steps=4000"))
    run.until_step(3)
    run.resize(2)
    run.until(lambda: "The run goes on as" in run.output() or run.ended(), "the way back")
    before = run.step()
    run.until_step(before + 3)
    assert "changes weights (slow)" in run.output()
    run.process.send_signal(signal.SIGTERM)
    assert run.wait() == 130
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["workers"] == 1 and result["durable_step"] >= before
