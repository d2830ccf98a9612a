"""What a person starts says how to end it where Ctrl-C does not."""

import re
import signal
import subprocess
import sys

import pytest
from deadlines import DEADLINE
from support import ROOT, command

from manyhands.cli import lab, train, up
from manyhands.cli.main import run


class Told(Exception):
    """Instead of going on."""


STAY = {
    "up --foreground --slots 1": up,
    "lab mesh-2 -- true": lab,
    f"train {ROOT}/tests/jobfiles/tiny.py": train,
}


@pytest.mark.parametrize("words", STAY)
def test_commands_that_stay_tell_it(words, monkeypatch, tmp_path):
    def tell():
        raise Told

    monkeypatch.setattr(STAY[words], "tell_how_to_end", tell)
    monkeypatch.setenv("MANYHANDS_HOME", str(tmp_path))
    with pytest.raises(Told):
        run(words.split())
    if STAY[words] is train:
        assert run([*words.split(), "--quiet", "--workers", "0"]) == 2, "it says nothing"


IGNORED = "import signal; signal.signal(signal.SIGINT, signal.SIG_{}); from manyhands.cli import main; main()"


@pytest.mark.parametrize("handling", ["IGN", "DFL"])
def test_an_agent_in_the_background(handling, tmp_path):
    """A shell has it ignore Ctrl-C."""
    words = [sys.executable, "-c", IGNORED.format(handling)]
    words += command("agent", "--port", 0, "--no-spare", "--token", tmp_path / "token")[3:]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while "listening" not in (line := process.stdout.readline()):
            assert line, process.stderr.read()
        process.send_signal(signal.SIGTERM if handling == "IGN" else signal.SIGINT)
        _, said = process.communicate(timeout=DEADLINE)
    told = re.findall(r"end it with `kill (\d+)`", said)
    assert told == ([str(process.pid)] if handling == "IGN" else []), said
