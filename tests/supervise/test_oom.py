"""Whether the kernel killed for want of memory, from its counters."""

from pathlib import Path

import pytest

from manyhands.supervise.oom import OutOfMemory


@pytest.fixture
def kernel(monkeypatch):
    """The kernel's files: path -> text; one that is not there cannot be read."""
    files = {}

    def read_text(path, *args, **kwargs):
        if str(path) not in files:
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return files[str(path)]

    monkeypatch.setattr(Path, "read_text", read_text)
    return files


@pytest.mark.parametrize("path", ["/sys/fs/cgroup/memory.events", "/proc/vmstat"])
def test_a_kill_is_seen_once(kernel, path):
    kernel[path] = "low 0\noom 9\noom_kill 2\noom_group_kill 7\n"
    watch = OutOfMemory()
    assert not watch.happened()
    kernel[path] = "low 0\noom 10\noom_kill 3\noom_group_kill 7\n"
    assert watch.happened()
    assert not watch.happened()


def test_the_control_group_comes_first(kernel):
    kernel["/sys/fs/cgroup/memory.events"] = "oom_kill 0\n"
    kernel["/proc/vmstat"] = "nr_free_pages 5\noom_kill 4\n"
    watch = OutOfMemory()
    kernel["/proc/vmstat"] = "nr_free_pages 5\noom_kill 5\n"  # somebody else's
    assert not watch.happened()


def test_without_counters_nothing_happened(kernel):
    watch = OutOfMemory()
    kernel["/proc/vmstat"] = "nr_free_pages 5\n"
    assert not watch.happened()


def test_this_machine_can_be_read():
    assert OutOfMemory().happened() in (True, False)
