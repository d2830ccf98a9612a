"""Builds machine.c with the system's compiler, once per processor and version, and keeps the library.

The library lies in the user's cache, under a name that is the hash of all that goes into it, with its own hash
at its end: one that was cut short or damaged is built anew, not loaded. It appears there whole (a rename), so any
number of processes may build at the same time. Where the cache cannot be written it is built in a temporary folder,
which is gone once it is loaded.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

_SOURCE = Path(__file__).with_name("machine.c")
_FLAGS = ["-O3", "-ffp-contract=off", "-fwrapv", "-shared", "-fPIC"]
_NATIVE = ["-march=native"]
"""Flags to build for this processor: not every compiler knows them for every processor."""
_BUILD_SECONDS = 120

_log = logging.getLogger("manyhands")


def load() -> ctypes.CDLL | None:
    """The compiled machine; None, with a line in the log, where there is no compiler or it fails."""
    kept = _cache()
    kept = kept and kept / f"machine-{_key()}.so"
    if kept is not None:
        with suppress(OSError):
            if _is_whole(kept):
                return ctypes.CDLL(str(kept))
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        _log.warning("no C compiler found (cc): collectives run in Python over sockets, several times slower.")
        return None
    try:
        if kept is not None:
            with suppress(OSError):
                return _built(compiler, kept.parent, kept)
        return _built(compiler, Path(tempfile.gettempdir()), None)
    except (OSError, subprocess.SubprocessError) as error:
        text = getattr(error, "stderr", None) or str(error).encode()
        shown = (text.decode(errors="replace").strip().splitlines() or [""])[0]
        _log.warning("machine.c could not be built: collectives run in Python, several times slower. %s", shown)
        return None


def _cache() -> Path | None:
    """Where libraries are kept; None where nobody has a home."""
    folder = os.environ.get("XDG_CACHE_HOME")
    with suppress(RuntimeError):
        return (Path(folder) if folder else Path.home() / ".cache") / "manyhands"
    return None


def _key() -> str:
    """What the library depends on: the source, the flags and the processor."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line for line in lines if line.startswith(("flags", "Features"))), "")
        parts = [_SOURCE.read_text(), *_FLAGS, *_NATIVE, platform.machine(), processor]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    return "unknown"


def _is_whole(path: Path) -> bool:
    data = path.read_bytes()
    return data[-32:] == hashlib.sha256(data[:-32]).digest()


def _built(compiler: str, folder: Path, kept: Path | None) -> ctypes.CDLL:
    """Build in a folder (about a second), load the result, and keep it if it has a place.

    Raises:
        OSError: the folder cannot be written, or the library not be loaded.
        subprocess.SubprocessError: the compiler fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="manyhands-build-") as work:
        made = Path(work) / "machine.so"
        _compile(compiler, made)
        with made.open("ab") as file:
            file.write(hashlib.sha256(made.read_bytes()).digest())
        loaded = ctypes.CDLL(str(made))
        if kept is not None:
            made.replace(kept)
        return loaded


def _compile(compiler: str, made: Path) -> None:
    for flags in ([*_FLAGS, *_NATIVE], _FLAGS):
        command = [compiler, *flags, "-o", str(made), str(_SOURCE)]
        done = subprocess.run(command, capture_output=True, timeout=_BUILD_SECONDS, check=False)
        if done.returncode == 0:
            return
    raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
