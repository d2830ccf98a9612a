"""What `manyhands submit` hands to the controller."""

import pytest

from manyhands.cli.main import run


@pytest.fixture
def submitted(tmp_path, monkeypatch):
    """Submits a job with flags, and gives what the controller was told."""
    from manyhands.jobs import controller

    told = []

    class Listener:
        def post(self, path, body):
            told.append(body)
            return {"id": 1, "status": "waiting"}

    monkeypatch.setattr(controller, "Client", Listener)
    (tmp_path / "job.py").write_text("")

    def submit(line: str, code: int = 0) -> dict:
        assert run(["submit", str(tmp_path / "job.py"), *line.split()]) == code
        return told.pop() if code == 0 else {}

    return submit


def test_a_job_has_what_train_has(submitted):
    flags = "--sync server,servers=2 --workers-per-device 2 --slow 1:3 --patience 20 --attempts 5 --threads 2"
    body = submitted(f"--workers 2:4 {flags} -- --width 3")
    assert (body["least"], body["most"], body["arguments"]) == (2, 4, ["--width", "3"])
    assert body["flags"] == {
        "sync": "server,servers=2",
        "workers_per_device": "2",
        "slow": "1:3",
        "patience": "20.0",
        "attempts": "5",
        "threads": "2",
    }


def test_what_is_not_given_is_left_to_train(submitted):
    body = submitted("")
    assert (body["least"], body["most"], body["flags"]) == (1, 1, {})


def test_flags_reach_train_as_train_reads_them(submitted):
    from manyhands.cli.parse import parse
    from manyhands.cli.train import Train

    body = submitted("--layout pp=2 --collective auto --device cpu --checkpoint-every 5 --snapshot-share 0.1")
    line = [word for name, value in body["flags"].items() for word in (f"--{name.replace('_', '-')}", value)]
    made = parse(Train, "manyhands train", ["job.py", *line], [])
    assert made.plan.given() == {"layout": "pp=2", "collective": "auto", "device": "cpu"}
    assert (made.care.checkpoint_every, made.care.snapshot_share) == (5, 0.1)


def test_what_would_fail_later_is_refused_now(submitted, capsys):
    submitted("--sync local --collective ring", code=2)
    assert "--collective is for --sync allreduce" in capsys.readouterr().err
