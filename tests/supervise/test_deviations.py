"""Whole runs in which a worker errs once: it is found and named, and the weights are those of a run without."""

import json
from pathlib import Path

import pytest
from support import cli, ledger_positions, train

FLIPS = Path(__file__).parents[1] / "jobfiles/flips.py"


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    return train(tmp_path_factory.mktemp("calm") / "run", FLIPS, workers=1)["weights_sha256"]


@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("gradient", "the gradient of body.0.weight"),
        ("weight", "body.0.weight"),
        ("state", "body.0.weight"),
    ],
)
def test_a_flipped_bit_is_found_and_the_result_is_the_same(tmp_path, calm, what, text, workers):
    flags = ("--audit=1", "--snapshot-share=0.3", "--checkpoint-every=7")
    job = (f"--what={what}", f"--mark={tmp_path / 'mark'}")
    done = cli("train", FLIPS, "--workers", workers, "--run-dir", tmp_path / "run", *flags, "--", *job)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert (tmp_path / "mark").exists() and result["weights_sha256"] == calm
    assert text in done.stderr
    if what == "gradient":
        assert "wrongly" in done.stderr and "of step 11" in done.stderr
        assert "worker " in done.stderr
    else:
        assert "goes back to the last state" in done.stderr
    assert ledger_positions(tmp_path / "run", 40) == [(i // 40, i % 40) for i in range(40 * 8)]
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "step"] == list(range(1, 41))
    assert any(line["kind"] == "membership" and line["change"] == "deviated" for line in lines)


def test_what_depends_on_who_computes_it_is_refused(tmp_path):
    done = cli("train", FLIPS, "--workers=2", "--run-dir", tmp_path / "run", "--audit=4", "--", "--what=counts")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "compute different things" in done.stderr and "--workers 1" in done.stderr
