"""The secret that opens a controller: an empty or cut file is never one, and a file is there whole or not at all."""

import multiprocessing
import os
import urllib.error
import urllib.request

import pytest
from deadlines import DEADLINE

from manyhands.errors import UserError
from manyhands.jobs.controller.storage.secret import is_secret, make_secret, read_secret

pytest.importorskip("starlette", reason="starlette is not installed")
DAMAGED = [b"", b"\n", b"x", b"A" * 31, b"\0" * 40, b"\xff" * 40, b"A" * 16 + b" " + b"A" * 16]


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_file_is_no_secret(tmp_path, content):
    path = tmp_path / "controller.token"
    path.write_bytes(content)
    for use in (make_secret, read_secret):
        with pytest.raises(UserError, match=r"controller\.token holds no token.*Remove that file"):
            use(path)
    assert path.read_bytes() == content, "what somebody may want to look at stays"


def test_it_is_the_same_at_every_start_and_for_its_owner_alone(tmp_path):
    path = tmp_path / "controller.token"
    made = make_secret(path)
    assert is_secret(made) and made == make_secret(path) == read_secret(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("broken", ["fsync", "fdopen"])
def test_a_secret_that_could_not_be_written_is_not_there(tmp_path, monkeypatch, broken):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    path = tmp_path / "controller.token"
    with monkeypatch.context() as patch:
        patch.setattr(os, broken, full)
        with pytest.raises(OSError, match="No space"):
            make_secret(path)
    assert list(tmp_path.iterdir()) == []
    assert is_secret(make_secret(path))


def _make(path, barrier, found):
    barrier.wait(DEADLINE)
    found.put(make_secret(path))


def test_many_that_make_it_at_once_have_the_same(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier, found = context.Barrier(4), context.Queue()
    makers = [context.Process(target=_make, args=(tmp_path / "token", barrier, found)) for _ in range(4)]
    for maker in makers:
        maker.start()
    assert len({found.get(timeout=DEADLINE) for _ in makers}) == 1
    for maker in makers:
        maker.join(DEADLINE)


def test_no_controller_with_an_empty_token(home):
    """It would let in whoever says nothing, and not its owner."""
    home.path.mkdir()
    (home.path / "controller.token").write_bytes(b"")
    done = home.cli("up", "--slots", 1, "--port", 0)
    assert done.returncode == 1 and "controller.token holds no token" in done.stderr
    assert "no controller runs" in home.cli("jobs").stderr
    (home.path / "controller.token").unlink()
    assert "/#token=" in home.up("--slots", 1)


def test_a_token_that_is_emptied_while_the_controller_runs_opens_nothing(home):
    home.up("--slots", 1)
    token = home.path / "controller.token"
    kept = token.read_bytes()
    token.write_bytes(b"")
    assert "holds no token" in home.cli("jobs").stderr
    for header in (None, "", "Bearer ", "Bearer"):
        assert _status(home, header) == 401
    token.write_bytes(kept)
    home.do("jobs")


def _status(home, header: str | None) -> int:
    from manyhands.jobs.controller import Home

    port = Home(home.path).published()["port"]
    request = urllib.request.Request(f"http://127.0.0.1:{port}/api/cluster")
    if header is not None:
        request.add_header("Authorization", header)
    try:
        with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
            return answer.status
    except urllib.error.HTTPError as refused:
        refused.close()
        return refused.code


def test_the_api_is_not_made_without_a_token():
    from manyhands.jobs.controller.web.api import application

    with pytest.raises(ValueError, match="needs a token"):
        application(None, "", "", None)
