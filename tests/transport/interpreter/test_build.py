"""The library of the machine in C: built once, kept, never loaded when damaged, done without where it cannot be."""

import logging
import multiprocessing
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from deadlines import DEADLINE

from manyhands.transport.interpreter import build


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "manyhands"


def kept(cache):
    return sorted(cache.iterdir())


def test_it_is_built_once_and_kept(cache, monkeypatch):
    assert build.load() is not None
    (library,) = kept(cache)
    written = library.stat().st_mtime_ns
    monkeypatch.setattr(build, "_compile", None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert build.load() is not None, "what is kept needs no compiler"
    assert kept(cache) == [library] and library.stat().st_mtime_ns == written


DAMAGE = {
    "half": lambda data: data[: len(data) // 2],
    "nothing": lambda data: b"",
    "zeros": lambda data: bytes(len(data)),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_library_is_built_anew(cache, damage):
    build.load()
    (library,) = kept(cache)
    whole = library.read_bytes()
    library.unlink()  # this process has it mapped
    library.write_bytes(DAMAGE[damage](whole))
    assert build.load() is not None
    assert kept(cache) == [library] and build._is_whole(library)


def test_without_a_compiler_it_says_so_in_one_line(cache, monkeypatch, caplog):
    caplog.set_level(logging.WARNING, logger="manyhands")
    monkeypatch.setenv("PATH", str(cache))
    assert build.load() is None
    (record,) = caplog.records
    assert "no C compiler" in record.getMessage()


def test_a_compiler_that_fails_is_one_line_too(cache, monkeypatch, caplog, tmp_path):
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho 'No space left on device' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    caplog.set_level(logging.WARNING, logger="manyhands")
    assert build.load() is None
    (record,) = caplog.records
    assert "No space left on device" in record.getMessage() and "\n" not in record.getMessage()
    assert not kept(cache), "nothing half done is left"


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "temporary").mkdir()
    assert build.load() is not None
    assert not list((tmp_path / "temporary").iterdir())


def test_without_a_home_too(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert build.load() is not None


def test_processes_may_build_at_the_same_time(cache):
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=lambda: sys.exit(build.load() is None)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(DEADLINE)
    assert [process.exitcode for process in processes] == [0] * 4
    (library,) = kept(cache)
    assert build._is_whole(library)


def test_halves_are_computed_alike_by_compilers_that_do_not_know_them(tmp_path):
    """GCC before 12 has no _Float16 on x86: all conversions both ways, by the substitute and by the compiler."""
    program = tmp_path / "halves.c"
    source = Path(build.__file__).with_name("machine.c").read_text()
    own = source[source.index("typedef uint16_t half_t;") :]
    own = own[: own.index("#endif")]
    program.write_text(
        "#include <stdint.h>\n#include <string.h>\n#include <stdio.h>\n"
        + own
        + """
int main(void) {
    for (uint32_t i = 0; i < 65536; i++) {
        uint16_t bits = i; _Float16 half; memcpy(&half, &bits, 2);
        float a = from_f16(bits), b = (float)half;
        if (memcmp(&a, &b, 4) && !(a != a && b != b)) return printf("from %x\\n", i), 1;
    }
    for (uint64_t i = 0; i < 1ull << 32; i += 509) {
        uint32_t bits = i; float f; memcpy(&f, &bits, 4);
        _Float16 half = (_Float16)f; uint16_t a = to_f16(f), b; memcpy(&b, &half, 2);
        if (a != b && f == f) return printf("to %x: %x %x\\n", bits, a, b), 1;
    }
    return 0;
}
"""
    )
    made = subprocess.run(["cc", "-O2", "-o", tmp_path / "halves", program], capture_output=True, text=True)
    if made.returncode:
        pytest.skip("this compiler does not know _Float16 itself")
    done = subprocess.run([tmp_path / "halves"], capture_output=True, text=True, timeout=DEADLINE)
    assert done.returncode == 0, done.stdout
