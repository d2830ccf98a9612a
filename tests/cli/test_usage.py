"""What a user gets wrong on the command line: one line that says what was wrong, and what was meant."""

import pytest

from manyhands.cli.main import run

WRONG = {
    "trian": "there is no command 'trian'. Did you mean `manyhands train`?",
    "frobnicate": "`manyhands --help` lists what there is",
    "cluster sho": "Did you mean `manyhands cluster show`?",
    "train job.py --width 256": (
        "--width is no option of `manyhands train`. Flags of the job go after --: manyhands train job.py -- --width 256"
    ),
    "train --width 256 my_job.py --workers 2": "manyhands train my_job.py --workers 2 -- --width 256",
    "train my_job.py --compile --workers 2 -- --width 3": "train my_job.py --workers 2 -- --compile --width 3",
    "submit my_job.py --width=256": "manyhands submit my_job.py -- --width=256",
    "compare my_job.py --layouts dp=2 --width 3": "manyhands compare my_job.py --layouts dp=2 -- --width 3",
    "train my_job.py --worker 2": "Did you mean --workers?",
    "lab mesh-4 python train.py": "The command to run goes after --: manyhands lab mesh-4 -- python train.py",
    "show a --jsn": "--jsn is no option of `manyhands show`. Did you mean --json?",
    "show a b": "'b' is too much: `manyhands show` takes RUN",
    "show a -- b": "`manyhands show` takes nothing after --: leave out b",
    "show": "`manyhands show` needs RUN. The run's directory",
    "compare my_job.py": "`manyhands compare` needs --layouts LAYOUT",
    "train my_job.py --workers": "--workers needs a value: --workers N",
    "train my_job.py --workers --quiet": "--workers needs a value",
    "train my_job.py --workers two": "--workers two: N is a whole number",
    "train my_job.py --workers=1.5": "--workers 1.5: N is a whole number",
    "train my_job.py --patience long": "--patience long: SECONDS is a number",
    "train my_job.py --patience nan": "--patience nan: SECONDS is a number",
    "train my_job.py --device gpu": "--device gpu: there are auto, cpu, cuda",
    "train my_job.py --collective bus": "--collective bus: there are auto, direct",
    "train my_job.py --tracker paper": "--tracker paper: there are tensorboard",
    "train my_job.py --quiet=yes": "--quiet is a switch and takes no value",
    "train my_job.py --workers 0": "--workers must be at least 1",
    "train my_job.py --slow fast": "--slow fast: write RANK:FACTOR",
    "train my_job.py --hosts here=1,lab1": "give every host a number",
    "train --resume r --server-hosts a,a": "--server-hosts a,a: a is there twice",
    "submit my_job.py --sync servr": "--sync servr: there is none",
    "resume runs/gpt-1": "For a run in a directory: manyhands train --resume runs/gpt-1",
    "pause runs/gpt-1": "For a run in a directory: manyhands stop runs/gpt-1",
    "cancel runs/gpt-1": "For a run in a directory: manyhands stop runs/gpt-1",
    "move runs/gpt-1 --to lab1": "manyhands resize runs/gpt-1 --hosts",
    "move 3 --to lab1,,lab2": "--to lab1,,lab2: a name is missing",
    "move 3 --to lab1 lab2": "'lab2' is too much",
}


@pytest.mark.parametrize("line", WRONG)
def test_one_line_says_what_was_wrong(line, capsys):
    assert run(line.split()) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("manyhands: ") and said.err.count("\n") == 1, said.err
    assert WRONG[line] in said.err


def test_the_line_that_is_suggested_can_be_pasted(capsys):
    assert run(["train", "my job.py", "--text", "two words"]) == 2
    assert "manyhands train 'my job.py' -- --text 'two words'" in capsys.readouterr().err


def test_a_probe_of_one_host_says_how_to_run_it_on_several(capsys, monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert run(["cluster", "probe"]) == 2
    said = capsys.readouterr().err
    for rank in (0, 1):
        assert f"manyhands cluster probe --rank {rank} --world-size 2 --master " in said


def test_a_run_that_is_no_run_is_said_to_be_none(tmp_path, capsys):
    assert run(["logs", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err
