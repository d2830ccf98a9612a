"""Shared memory: seen by every holder, freed with the last, cheap until written."""

import mmap
import os
from pathlib import Path

import pytest
from children import child

from manyhands.shm import SharedMemory


def test_a_child_sees_what_the_parent_writes_and_the_other_way():
    memory = SharedMemory(100)
    memory.view[:5] = b"hello"

    def answer():
        assert memory.view[:5] == b"hello"
        memory.view[5:11] = b" world"

    with child(answer) as pid:
        assert os.waitpid(pid, 0)[1] == 0
    assert memory.view[:11] == b"hello world"
    memory.close()


def test_a_second_object_over_the_descriptor_sees_the_same_bytes():
    memory = SharedMemory(10)
    other = SharedMemory(0, os.dup(memory.descriptor))
    memory.view[0] = 7
    assert other.view[0] == 7 and len(other.view) == len(memory.view)
    memory.close()
    other.close()


def test_views_stay_valid_when_it_grows():
    memory = SharedMemory(10)
    old = memory.view
    memory.grow(10 * mmap.PAGESIZE)
    memory.view[3] = 9
    assert old[3] == 9 and len(memory.view) == 10 * mmap.PAGESIZE
    memory.grow(5)
    assert len(memory.view) == 10 * mmap.PAGESIZE
    memory.close()


def test_one_that_another_has_grown_is_mapped_whole():
    memory = SharedMemory(10)
    other = SharedMemory(0, os.dup(memory.descriptor))
    memory.grow(3 * mmap.PAGESIZE)
    memory.view[-1] = 5
    other.grow(0)
    assert other.view[-1] == 5
    memory.close()
    other.close()


def test_the_view_outlives_the_descriptor():
    memory = SharedMemory(10)
    memory.close()
    memory.close()
    memory.view[0] = 1
    assert memory.view[0] == 1
    with pytest.raises(OSError):
        os.fstat(memory.descriptor)


def test_it_has_no_name_and_is_closed_on_exec():
    memory = SharedMemory(10, name="manyhands-test")
    target = Path(f"/proc/self/fd/{memory.descriptor}").readlink()
    assert str(target) == "/memfd:manyhands-test (deleted)"
    assert not os.get_inheritable(memory.descriptor)
    memory.close()


def test_pages_that_were_never_written_take_no_memory():
    memory = SharedMemory(1 << 30)
    memory.view[1 << 29] = 1
    assert os.fstat(memory.descriptor).st_blocks * 512 < 1 << 22
    memory.close()


def test_nothing_is_left_in_dev_shm():
    before = set(Path("/dev/shm").iterdir())
    memory = SharedMemory(1 << 20)
    memory.view[:] = b"x" * len(memory.view)
    assert {p for p in Path("/dev/shm").iterdir() if p not in before and "manyhands" in p.name} == set()
    memory.close()
