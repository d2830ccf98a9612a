"""Who is compared: fleets of manyhands, of gloo and of Open MPI, on this machine or in a lab."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from manyhands.bench import Fleet, Launch, in_lab, local
from manyhands.lab import Lab

HERE = Path(__file__).resolve().parent
OURS, PROBED, GLOO, MPI = "manyhands", "manyhands, probed", "gloo", "Open MPI"
_PEERS = {
    "PYTHONPATH": os.pathsep.join([str(HERE.parent / "peers"), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
}
_MCA = {
    "mpi_yield_when_idle": "1",  # ranks share cores: without this they keep each other from working
    "btl_base_warn_component_unused": "0",
}


def no_mpi() -> str | None:
    """Why Open MPI cannot be compared with; None if it can."""
    if shutil.which("mpirun") is None:
        return "there is no mpirun (apt-get install openmpi-bin libopenmpi-dev)"
    if importlib.util.find_spec("mpi4py") is None:
        return "there is no mpi4py (pip install mpi4py)"
    return None


@contextlib.contextmanager
def on_this_machine(world: int, mpi: bool = True) -> Iterator[dict[str, Fleet]]:
    """Fleets whose ranks share memory."""
    with contextlib.ExitStack() as opened:
        fleets = {side: opened.enter_context(_torch(side, world, local(world, _PEERS))) for side in (OURS, GLOO)}
        if mpi and no_mpi() is None:
            fleets[MPI] = opened.enter_context(_mpi(world, _here(world)))
        yield fleets


@contextlib.contextmanager
def in_a_lab(lab: Lab, *, probed: bool = False, mpi: bool = False) -> Iterator[dict[str, Fleet]]:
    """Fleets in a lab. `probed`: also ours without the cluster's description, so that it measures the links."""
    world = len(lab.cluster.ranks)
    with contextlib.ExitStack() as opened:
        fleets = {OURS: opened.enter_context(_torch(OURS, world, in_lab(lab, 0, _PEERS)))}
        if probed:
            cache = _cache_without_probes(opened.enter_context(tempfile.TemporaryDirectory(prefix="cache-")))
            launch = in_lab(lab, 1, {**_PEERS, "MANYHANDS_CLUSTER": "", "XDG_CACHE_HOME": cache})
            fleets[PROBED] = opened.enter_context(_torch(OURS, world, launch))
        fleets[GLOO] = opened.enter_context(_torch(GLOO, world, in_lab(lab, 2, _PEERS)))
        if mpi and no_mpi() is None:
            fleets[MPI] = opened.enter_context(_mpi(world, _there(lab)))
        yield fleets


def _torch(backend: str, world: int, launch: Launch) -> Fleet:
    return Fleet(backend, world, launch, [sys.executable, str(HERE / "rank.py"), "--backend", backend])


def _mpi(world: int, launch: Launch) -> Fleet:
    return Fleet(MPI, world, launch, [sys.executable, str(HERE / "mpi.py")])


def _mpirun(world: int, options: Mapping[str, str]) -> list[str]:
    settings = [word for item in {**_MCA, **options}.items() for word in ("--mca", *item)]
    return ["mpirun", "--allow-run-as-root", "-np", str(world), *settings]


def _here(world: int) -> Launch:
    def launch(command: list[str], output: IO[bytes]) -> list[subprocess.Popen[Any]]:
        words = [*_mpirun(world, {"btl": "self,vader"}), "--oversubscribe", *command]
        return [subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env={**os.environ})]

    return launch


def _there(lab: Lab) -> Launch:
    """Open MPI takes interfaces for networks that all ranks are in: true of rails, but not of a mesh, where it must be
    kept to the address that all can reach."""
    options = {"plm_rsh_agent": shlex.join(lab.remote_shell()), "btl": "self,tcp"}
    if not lab.cluster.name.startswith("two-rail"):
        options["btl_tcp_if_include"] = "host"

    def launch(command: list[str], output: IO[bytes]) -> list[subprocess.Popen[Any]]:
        ranks = lab.cluster.ranks
        words = [*_mpirun(len(ranks), options), "--host", ",".join(ranks), *command]
        return [lab.run(ranks[0], words, stdin=subprocess.DEVNULL, stdout=output, stderr=output)]

    return launch


def _cache_without_probes(folder: str) -> str:
    """What was built stays, what was measured is forgotten."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "manyhands"
    if cache.exists():
        shutil.copytree(cache, Path(folder) / "manyhands", ignore=shutil.ignore_patterns("probe*"))
    return folder
