"""`manyhands lab`: run a command on every host of a cluster that this machine emulates."""

from __future__ import annotations

import contextlib
import queue
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Annotated

from manyhands.cli.cluster import cluster_of_user
from manyhands.cli.command import Command
from manyhands.cli.groups import ScaleOption
from manyhands.cli.interrupts import tell_how_to_end
from manyhands.errors import UsageError
from manyhands.plan import Option

if TYPE_CHECKING:
    from manyhands.lab import Process

_GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL."""


@dataclass(frozen=True, kw_only=True)
class Lab(ScaleOption, Command):
    """Run a command for every rank of an emulated cluster.

        sudo manyhands lab mesh-4 -- python train.py

    Every host is a set of Linux namespaces, every link a cable shaped to its bandwidth. Needs root, and
    `pip install 'manyhands[lab]'`. The command finds RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT (and the LOCAL_ ones)
    as under torchrun, and the cluster's description in MANYHANDS_CLUSTER; {rank}, {world_size}, {node} and {master} in
    it are replaced. Hosts reach each other by name.
    """

    after_dashes = "The command to run goes after --"

    cluster: Annotated[str, Option("CLUSTER", positional=True)]
    """A preset (see `manyhands cluster presets`) or a file with a cluster."""
    apart: bool = False
    """Give every device a host of its own, and so emulate the links inside of machines too."""
    keep_going: bool = False
    """When a rank fails, leave the others to themselves instead of ending them."""

    def run(self, job_arguments: list[str]) -> int:
        if not job_arguments:
            raise UsageError("give the command to run behind --: manyhands lab mesh-4 -- python train.py")
        if self.scale <= 0:
            raise UsageError(f"--scale must be positive, not {self.scale:g}.")
        cluster = cluster_of_user(self.cluster).scaled(self.scale)
        cluster = cluster.apart() if self.apart else cluster
        if not cluster.ranks:
            raise UsageError(f"cluster {cluster.name} has no host or device to run a command on.")
        from manyhands.lab import Lab as Emulated

        tell_how_to_end()
        with Emulated(cluster) as lab:
            pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            processes = dict(zip(cluster.ranks, lab.run_all(job_arguments, **pipes), strict=True))
            readers: list[threading.Thread] = []
            try:
                _print_output(processes, readers)
                return _wait(processes, self.keep_going)
            except KeyboardInterrupt:
                _end(processes)
                raise
            finally:
                lab.close()
                for reader in readers:  # nothing holds the pipes open any more
                    reader.join()


def _print_output(processes: dict[str, Process], readers: list[threading.Thread]) -> None:
    """Copy the lines of all ranks, each with its name before it; adds the threads that do."""
    width = max(len(name) for name in processes)
    lock = threading.Lock()

    def copy(name: str, source: IO[bytes], target: IO[bytes]) -> None:
        with source, contextlib.suppress(BrokenPipeError):  # then nobody reads on
            for line in source:
                with lock:
                    target.write(f"{name:{width}} | ".encode() + line.rstrip(b"\n") + b"\n")
                    target.flush()

    for name, process in processes.items():
        assert process.stdout is not None
        assert process.stderr is not None
        for source, target in ((process.stdout, sys.stdout.buffer), (process.stderr, sys.stderr.buffer)):
            reader = threading.Thread(target=copy, args=(name, source, target), daemon=True)
            reader.start()
            readers.append(reader)


def _wait(processes: dict[str, Process], keep_going: bool) -> int:
    """The first exit code that is not 0, as a shell would give it."""
    ended: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()
    for name, process in processes.items():
        threading.Thread(target=lambda n=name, p=process: ended.put((n, p.wait())), daemon=True).start()
    first = 0
    for _ in processes:
        name, code = ended.get()
        if code == 0 or (first and not keep_going):
            continue
        how = f"exited with code {code}" if code > 0 else f"was ended by {signal.Signals(-code).name}"
        print(f"manyhands: {name} {how}", file=sys.stderr)
        first = first or (code if code > 0 else 128 - code)
        if not keep_going:
            _end(processes)
    return first


def _end(processes: dict[str, Process]) -> None:
    for process in processes.values():
        process.terminate()
    for process in processes.values():
        try:
            process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
