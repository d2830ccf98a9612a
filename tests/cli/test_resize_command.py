"""What `manyhands resize` asks of the supervisor."""

import json
import threading

import pytest
from deadlines import DEADLINE

from manyhands.cli.main import main
from manyhands.run import COMMANDS, Done, Resize, RunDirectory
from manyhands.wire import encode


@pytest.fixture
def directory(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    directory.create()
    directory.run.write_text("{}")
    return directory


def resize(*arguments):
    with pytest.raises(SystemExit) as caught:
        main(["resize", *map(str, arguments)])
    return caught.value.code


def asked(directory, *flags):
    """What reaches the supervisor."""
    requests = []
    with directory.listen() as listener:

        def answer():
            with listener.accept()[0] as link:
                requests.append(COMMANDS.decode(json.loads(link.recv(1 << 16))))
                link.send(json.dumps(encode(Done())).encode())

        thread = threading.Thread(target=answer)
        thread.start()
        assert resize(directory.path, *flags) == 0
        thread.join(DEADLINE)
    return requests[0]


def test_requests(directory, capsys):
    assert asked(directory, "--workers", 3) == Resize(workers=3)
    request = asked(directory, "--layout", "pp=2, tp=2")
    assert request == Resize(workers=4, layout="pp=2,tp=2")
    request = asked(directory, "--layout", "pp=2", "--workers", 4)
    assert request == Resize(workers=4, layout="dp=2,pp=2")
    assert "dp=2,pp=2 on 4 worker(s)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), "say to what"),
        (("--layout", "pp=x"), "pp is a number"),
        (("--layout", "pp=2", "--workers", "3"), "--workers 2 or 4"),
    ],
)
def test_refusals(flags, words, directory, capsys):
    assert resize(directory.path, *flags) == 2
    assert words in capsys.readouterr().err


def test_a_layout_that_makes_no_sense_stops_train_at_once(tmp_path, capsys):
    job = tmp_path / "job.py"
    job.write_text("")
    with pytest.raises(SystemExit) as caught:
        main(["train", str(job), "--layout", "pp=2,schedule=zbv", "--run-dir", str(tmp_path / "run")])
    assert caught.value.code == 2 and "Schedules: vanilla" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
