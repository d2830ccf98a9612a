"""Exit statuses in words."""

import pytest

from manyhands.engine import describe_status


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0, "exited with code 0"),
        (3, "exited with code 3"),
        (-9, "was killed by signal 9 (SIGKILL)"),
        (-11, "was killed by signal 11 (SIGSEGV)"),
        (-35, "was killed by signal 35 (unknown)"),
        (None, "disappeared"),
    ],
)
def test_statuses_in_words(status, words):
    assert describe_status(status) == words
