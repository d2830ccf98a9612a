"""What is no job is turned away at the door, in a sentence, and the controller goes on with the others."""

import http.client
import json
import os

import pytest
from deadlines import DEADLINE
from home import JOB

from manyhands.errors import UsageError
from manyhands.jobs.controller import Home
from manyhands.jobs.controller.storage.submission import Submission

pytest.importorskip("starlette", reason="starlette is not installed")
GOOD = {
    "key": "k", "file": "/job.py", "arguments": ["--x", "", "two\nlines"], "cwd": "/", "name": "n", "user": "u",
    "least": 1, "most": 2, "priority": -3, "flags": {"layout": "pp=2", "checkpoint-seconds": "3"},
}  # fmt: skip
HUGE = 2**63
WRONG = {
    "priority": [HUGE, -HUGE, 10**400, 1.0, True, None, "1", [], float("nan")],
    "least": [0, -1, 3, HUGE, True, "1", None, 1.0],
    "most": [0, HUGE, 10**400, False, 2.0, {}],
    "name": ["", 3, None, "n" * 201, "a\0b", "a\nb", "\x1b[2J", "\x7f", "\x9b2J", "caf\udce9", ["n"]],
    "user": ["", 3, "u" * 201, "\ud800"],
    "key": ["", 3, None, "k" * 201, "\ud800"],
    "file": ["", "job.py", 3, "/caf\udce9.py", "/a\0b", "/" + "x" * 4095, "/\x1b[2J"],
    "cwd": ["", "here", None, "/caf\udce9", "/a\0b"],
    "arguments": ["abc", None, {"a": 1}, [1], [None], [["--x"]], ["a\0b"], ["\ud800"], ["x" * 100_001], ["x"] * 10_001],
    "flags": [[], "x", None, {"x": 1}, {"": "1"}, {"a b": "1"}, {"--x": "1"}, {"x": "\0"}, {"workers": "9"},
              {"run-dir": "/x"}, {"resume": "/x"}, {"hosts": "x"}, {f"x{i}": "" for i in range(51)}],
    "more": [1],
}  # fmt: skip


def test_a_submission_is_as_it_was_sent():
    read = Submission.read(GOOD)
    assert {name: getattr(read, name) for name in GOOD} == GOOD
    assert Submission.read({name: GOOD[name] for name in GOOD if name not in ("priority", "flags")}).flags == {}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_what_is_no_submission(name, value):
    with pytest.raises(UsageError, match=r"a job cannot be submitted like this: .*\.$") as refused:
        Submission.read(GOOD | {name: value})
    str(refused.value).encode()
    assert len(str(refused.value)) < 400, "a wrong value is not repeated in full"


@pytest.mark.parametrize("name", ["key", "file", "arguments", "cwd", "name", "user", "least", "most"])
def test_what_is_missing_is_named(name):
    with pytest.raises(UsageError, match=f"{name} is missing"):
        Submission.read({field: value for field, value in GOOD.items() if field != name})


def test_what_is_refused_harms_nobody(home, tmp_path):
    """Over HTTP, with the right token: each is 400 and a sentence; the jobs there are go on, also after a restart."""
    home.up("--slots", 1)
    good = home.submit(job=("--steps=20",))
    token, port = Home(home.path).read_secret(), Home(home.path).published()["port"]

    def send(path: str, body: bytes) -> tuple[int, dict]:
        link = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        link.request("POST", path, body, headers)
        answer = link.getresponse()
        found = json.loads(answer.read())
        link.close()
        return answer.status, found

    bodies = [json.dumps(GOOD | {name: value}).encode() for name, values in WRONG.items() for value in values]
    bodies += [b"[" * 200_000, b"{", b"[]", b"null", b"3", b"\xff\xfe", b'{"least": ' + b"9" * 5000 + b"}"]
    bodies += [b'{"a":' * 100_000, b'{"key": "' + b"x" * (1 << 20) + b'"}']
    for body in bodies:
        status, found = send("/api/jobs", body)
        assert status == 400 and found["usage"] and found["error"], body[:200]
    for path, body, code in (
        ("/api/jobs/1/move", b'{"to": "here"}', 400), ("/api/jobs/1/move", b'{"to": [3]}', 400),
        ("/api/jobs/1/move", b'{"to": ["\\ud800"]}', 400), ("/api/down", b'{"leave": "no"}', 400),
        ("/api/jobs/" + "9" * 5000 + "/pause", b"{}", 400), ("/api/jobs/x/pause", b"{}", 400),
        ("/api/jobs/1/dance", b"{}", 404),
    ):  # fmt: skip
        assert send(path, body)[0] == code, (path[:50], body)
    assert [job["id"] for job in home.show()["jobs"]] == [good]
    assert home.until_job(good, "finished")["weights_sha256"]
    home.do("down")
    home.up("--slots", 1)
    assert home.job(good)["status"] == "finished"


def test_commands_say_what_is_wrong(home, tmp_path):
    home.up("--slots", 1)
    strange = tmp_path / os.fsdecode(b"caf\xe9.py")
    strange.write_bytes(JOB.read_bytes())
    for flags, text in (
        ((JOB, "--priority", HUGE), "priority is 9223372036854775808: it has to be a whole number from"),
        ((JOB, "--workers", f"1:{HUGE}"), "the most workers is 9223372036854775808"),
        ((JOB, "--name", "a\nb"), "name holds a control character"),
        ((strange,), "the job file is not UTF-8"),
    ):
        done = home.cli("submit", *flags)
        assert done.returncode == 2 and text in done.stderr, done.stderr
    assert "no jobs" in home.do("jobs")
