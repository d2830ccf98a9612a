"""`manyhands train`: train a job on this machine."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from manyhands.errors import UsageError
from manyhands.plan import Collective, Device
from manyhands.supervise import Care, Session, run_session


@dataclass(frozen=True)
class Train:
    """Train a job: manyhands train examples/gpt.py --workers 2 -- --layers 6

    What follows -- are the flags of the job file's `job` function; `-- --help` lists them.
    """

    job_file: tyro.conf.Positional[Path | None] = None
    """Python file with a function `job(...) -> manyhands.Job`."""
    workers: int | None = None
    """Processes that share every batch. Default: one per CUDA device, or one."""
    layout: str | None = None
    """How the work is divided among them: pp=2,dp=2 or tp=2 and so on (docs/layouts.md). Default: replicas."""
    run_dir: Path | None = None
    """Where the run is written. Default: runs/NAME-TIME."""
    resume: Path | None = None
    """Go on with the run in this directory, from its newest whole checkpoint."""
    device: Device | None = None
    """Default: CUDA where there is some, else the CPU."""
    threads: int | None = None
    """Threads per worker on the CPU. Default: 1. Part of what fixes the bits of the result."""
    workers_per_device: int | None = None
    """Workers that may share one CUDA device. Default: 1."""
    collective: Collective | None = None
    """How gradients travel between workers. Default: auto. The sums are the same bits whatever it is."""
    sync: str | None = None
    """When replicas agree: allreduce (every step), server,servers=2 (parameter servers), local,every=16 (every so many
    steps) and so on (docs/sync.md). Default: allreduce."""
    slow: str | None = None
    """RANK:FACTOR, as in 1:3: make worker 1 three times slower, to see what that does. For experiments."""
    hosts: str | None = None
    """here,NAME[:PORT],...: machines of the workers; `manyhands agent` runs on the others. here=3,NAME=1 says how many
    are on each. Default: this one."""
    server_hosts: str | None = None
    """The same for parameter servers, a machine for each. Default: where the workers are."""
    token: Path | None = None
    """What the agents know. Default: token in $MANYHANDS_HOME, or in ~/.manyhands."""
    tracker: tuple[Literal["tensorboard"], ...] = ()
    """Also write the figures there."""
    care: Annotated[Care, tyro.conf.arg(name="")] = field(default_factory=Care)
    """How the gang is looked after."""
    quiet: bool = False
    """Print nothing but what the workers print and what goes wrong."""
    debug: bool = False
    """Show the trace behind a failure."""

    def run(self, job_arguments: list[str]) -> int:
        if (self.job_file is None) == (self.resume is None):
            raise UsageError(
                "give either a job file or --resume DIR: manyhands train FILE, manyhands train --resume DIR"
            )
        if self.resume is not None and self.run_dir is not None:
            raise UsageError("--resume and --run-dir exclude each other: a resumed run stays in its directory.")
        given = {
            "workers": self.workers,
            "layout": self.layout,
            "device": self.device,
            "threads": self.threads,
            "workers_per_device": self.workers_per_device,
            "collective": self.collective,
            "sync": self.sync,
            "slow": self.slow,
            "hosts": self.hosts,
            "server_hosts": self.server_hosts,
        }
        return run_session(
            Session(
                directory=self.resume or self.run_dir or _default_directory(self.job_file),
                job_file=self.job_file,
                arguments=job_arguments,
                plan={name: value for name, value in given.items() if value is not None},
                care=self.care,
                trackers=self.tracker,
                token=self.token,
                quiet=self.quiet,
                debug=self.debug,
            )
        )


def _default_directory(job_file: Path | None) -> Path:
    name = job_file.stem if job_file else "run"
    base = Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    path, count = base, 1
    while path.exists():
        count += 1
        path = base.with_name(f"{base.name}-{count}")
    return path
