"""From a file and flags to a job: errors name the file and the line of the user's own code."""

import sys
import textwrap

import pytest

from manyhands.errors import JobError, UsageError
from manyhands.training.jobfile import load_job, where

GOOD = """
from manyhands import Job

def job(lr: float = 0.1, steps: int = 3) -> Job:
    return Job(model=int, data=list, loss=max, optimizer=lambda p: lr, batch_size=8, steps=steps)
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a job file; what importing it leaves in `sys` goes with the test."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("my_job", "helper_of_my_job"):
        monkeypatch.delitem(sys.modules, name, raising=False)

    def make(text: str, name: str = "my_job.py"):
        path = tmp_path / name
        path.write_text(textwrap.dedent(text))
        return path

    yield make
    for name in ("my_job", "helper_of_my_job"):
        sys.modules.pop(name, None)


def test_defaults_and_flags(write):
    path = write(GOOD)
    assert load_job(path, []).steps == 3
    job = load_job(path, ["--steps", "7", "--lr=0.5"])
    assert (job.steps, job.optimizer(None)) == (7, 0.5)


def test_files_beside_it_can_be_imported(write):
    write("def steps():\n    return 5\n", "helper_of_my_job.py")
    path = write("import helper_of_my_job\n" + GOOD.replace("= 3", "= helper_of_my_job.steps()"))
    assert load_job(path, []).steps == 5


@pytest.mark.parametrize("arguments", [["--help"], ["--stepz", "7"], ["--steps", "many"], ["7"]])
def test_flags_are_tyros_affair(write, arguments, capsys):
    with pytest.raises(SystemExit) as ending:
        load_job(write(GOOD), arguments)
    assert ending.value.code == (0 if arguments == ["--help"] else 2)
    output = capsys.readouterr()
    if arguments == ["--help"]:
        assert "--lr" in output.out and "my_job.py --" in output.out


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import not_there_at_all", ["does not import", "ModuleNotFoundError", "not_there_at_all", "my_job.py:1"]),
        ("x = 1\ny = x / 0", ["does not import", "ZeroDivisionError", "my_job.py:2"]),
        ("def job(:", ["does not import", "SyntaxError", "line 1"]),
        ("x = 1", ["has no function `job`", "def job(...) -> manyhands.Job"]),
        ("job = 5", ["has no function `job`"]),
        ("def job():\n    return 5", ["must return a manyhands.Job; it returned a int"]),
        ("def job():\n    pass", ["must return a manyhands.Job; it returned a NoneType"]),
        (
            "def job():\n    return helper()\n\ndef helper():\n    return {}['a']",
            ["job() in", "KeyError", "my_job.py:5, in helper"],
        ),
    ],
)
def test_what_is_wrong_is_said_and_where(write, text, words):
    path = write(text)
    with pytest.raises(UsageError) as error:
        load_job(path, [])
    for word in [str(path), *words]:
        assert word in str(error.value)


def test_a_wrong_job_speaks_for_itself(write):
    path = write(GOOD.replace("batch_size=8", "batch_size=9"))
    with pytest.raises(JobError, match="batch_size 9 cannot be cut"):
        load_job(path, [])


def test_files_that_are_none(write, tmp_path):
    with pytest.raises(UsageError, match=r"nowhere\.py does not exist"):
        load_job(tmp_path / "nowhere.py", [])
    with pytest.raises(UsageError, match="does not exist"):
        load_job(tmp_path, [])
    with pytest.raises(UsageError, match=r"is not a Python file: its name must end in \.py"):
        load_job(write(GOOD, "my_job.txt"), [])


def test_an_error_in_one_line_names_the_users_last_line():
    try:
        int("x")
    except ValueError as caught:
        text = where(caught)
    assert text.startswith("ValueError: invalid literal") and "test_jobfile.py:" in text
    assert where(ValueError("bare")) == "ValueError: bare"
