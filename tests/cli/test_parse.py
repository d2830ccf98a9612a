"""From declarations to values, as the command line has them."""

from pathlib import Path

import pytest

from manyhands.cli.convert import Convert
from manyhands.cli.logs import Logs
from manyhands.cli.parse import parse
from manyhands.cli.simulate import Simulate
from manyhands.cli.submit import Submit
from manyhands.cli.train import Train


def test_options_of_all_groups_are_the_commands_own():
    line = "job.py --workers 2 --sync local,every=4 --patience 3 --checkpoint-every=7 --token t --run_dir r --quiet"
    made = parse(Train, "manyhands train", line.split(), [])
    assert made.job_file == Path("job.py") and made.run_dir == Path("r") and made.quiet and not made.debug
    assert made.plan.given() == {"workers": 2, "sync": "local,every=4"}
    assert (made.care.patience, made.care.checkpoint_every, made.care.attempts) == (3.0, 7, 3)
    assert made.token.token == Path("t")


def test_what_is_not_given_is_not_given():
    made = parse(Train, "manyhands train", ["--resume", "runs/a"], [])
    assert made.plan.given() == {} and made.job_file is None and made.resume == Path("runs/a")


def test_letters_negative_numbers_and_texts_with_spaces():
    assert parse(Convert, "manyhands convert", ["-o", "x.safetensors", "RUN"], []).output == Path("x.safetensors")
    assert parse(Logs, "manyhands logs", ["3", "-f"], []).follow
    made = parse(Submit, "manyhands submit", ["job.py", "--priority", "-2", "--name", "a b"], [])
    assert (made.priority, made.name) == (-2, "a b")


@pytest.mark.parametrize("flags", [["--help"], ["job.py", "--help"], ["--nonsense", "-h"]])
def test_help_comes_before_complaints(flags, capsys):
    assert parse(Simulate, "manyhands simulate", flags, []) is None
    said = capsys.readouterr()
    assert "A trace is a CSV with the columns" in said.out and said.err == ""
    assert "\n    manyhands simulate --policies fifo,las\n    manyhands simulate examples/trace.csv" in said.out
