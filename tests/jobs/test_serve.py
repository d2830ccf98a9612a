"""A controller's start: `up` says that it runs only when it does, and nobody else can read what it writes."""

import os

import pytest
from home import JOB
from support import cli

pytest.importorskip("starlette", reason="starlette is not installed")


def test_up_says_when_the_controller_died_at_once(home, tmp_path):
    haunted = tmp_path / "haunted"
    (haunted / "uvicorn").mkdir(parents=True)
    (haunted / "uvicorn/__init__.py").write_text(
        "def Config(*_, **__): pass\n"
        "class Server:\n"
        "    def __init__(self, config): pass\n"
        "    async def serve(self, sockets): raise RuntimeError('this port is haunted')\n"
    )
    path = os.pathsep.join([str(haunted), os.environ.get("PYTHONPATH", "")])
    done = cli("up", "--slots", 1, "--port", 0, env=home.environment | {"PYTHONPATH": path})
    assert done.returncode == 1 and "a controller runs" not in done.stdout
    assert "ended at once, with code 1" in done.stderr and "RuntimeError: this port is haunted" in done.stderr
    assert str(home.path / "controller.log") in done.stderr
    assert "no controller runs" in home.cli("jobs").stderr
    home.up("--slots", 1)


def test_a_database_that_is_damaged_within_is_named(home):
    home.up("--slots", 1)
    home.do("down")
    database = home.path / "jobs.sqlite"
    content = bytearray(database.read_bytes())
    for page in range(4096, len(content), 4096):  # all but the first, which says what tables there are
        content[page : page + 200] = os.urandom(200)
    database.write_bytes(content)
    done = home.cli("up", "--slots", 1, "--port", 0)
    assert done.returncode == 1 and "jobs.sqlite cannot be used" in done.stderr, done.stderr


def _modes(path) -> dict[str, str]:
    return {str(each.relative_to(path.parent)): oct(each.lstat().st_mode & 0o777) for each in (path, *path.iterdir())}


def test_nobody_else_can_read_what_a_controller_writes(home):
    """Even if the user's files are for everybody, and an earlier version left some so."""
    home.path.mkdir(mode=0o755)
    (home.path / "jobs").mkdir(mode=0o755)
    (home.path / "controller.log").write_text("")
    (home.path / "controller.log").chmod(0o644)
    done = cli("up", "--slots", 1, "--port", 0, env=home.environment, umask=0o022)
    assert done.returncode == 0, done.stderr
    home.until_job(home.submit(job=("--steps=4",)), "finished")
    shown = _modes(home.path) | _modes(home.path / "jobs")
    wrong = {name: mode for name, mode in shown.items() if int(mode, 8) & 0o077}
    assert {"home", "home/jobs.sqlite", "home/controller.log", "home/controller.token", "jobs/1"} <= set(shown)
    assert wrong == {}
    job = _modes(home.path / "jobs/1")
    assert int(job["1/output.txt"], 8) & 0o077 == 0
    result = home.path / "jobs/1/run/result.json"
    assert result.stat().st_mode & 0o777 == 0o644, "a job writes as its user does; its folder is closed"
    assert JOB.exists()
