"""What workers cannot share with the process that they are forked from is refused, or said."""

import threading

import pytest

from manyhands.errors import UserError
from manyhands.training.inherited import check_threads, opened, shared_offset


def test_threads_of_the_job_file_are_refused_where_workers_would_wait_for_them():
    ends = threading.Event()
    thread = threading.Thread(target=ends.wait)
    thread.start()
    try:
        check_threads(1)
        with pytest.raises(UserError, match=r"starts threads when it is imported.*--threads 1"):
            check_threads(2)
    finally:
        ends.set()
        thread.join()


def test_files_that_are_open_to_read_are_found(tmp_path):
    before = opened()
    read, written = tmp_path / "read", tmp_path / "written"
    read.write_text("abc")
    with read.open(), written.open("w"):
        assert opened() - before == {str(read)}
    assert opened() == before
    assert str(read) in shared_offset([str(read)]) and "Open it in data()" in shared_offset([str(read)])
