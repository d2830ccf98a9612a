"""What a gang is made for, and what was found out about it where the job was loaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from manyhands.plan import Plan
from manyhands.wire import Codec, decode_as


@dataclass(frozen=True, kw_only=True)
class Probing:
    """A short run that is looked at closely (training/probe.py)."""

    steps: int
    """How many steps are trained, and no more."""
    stages: tuple[int, ...] = ()
    """Numbers of pipeline stages for which one worker alone is to measure the model's units."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What is to be run: the same on every host."""

    job_file: Path | None
    """The job's file; None: the job is in memory (held.py), under the name `held`."""
    held: str = ""
    arguments: tuple[str, ...] = ()
    """The flags of the job file's `job` function."""
    cwd: Path
    """Where the run began: flags may hold relative paths."""
    plan: Plan
    """The plan to begin with. Members are told theirs when they are built."""
    snapshot_share: float
    """Largest share of the time that snapshots may take."""
    audit: int = 0
    """One micro-batch in so many is computed by a second replica, too; 0: none is."""
    tables: Path
    """The folder for the rows of sparse tables, on the machine that the run was started on."""
    probe: Probing | None = None
    """What is to be found out in a short run; None in any other."""


SPEC: Codec[Spec] = Codec(Spec)


_ALIKE = ("torch", "numpy", "manyhands")
"""What bits depend on by its version; Python's own generators give the same numbers in all that are supported."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What was found out about the job, and about the machine that it was loaded on."""

    micro_batches: int
    batch_size: int
    seed: int
    precision: str
    reproducible: bool
    compile: bool
    cuda_devices: int
    device: str
    """`cpu` or `cuda`."""
    warning: str
    """Something that the user may want to know; may be empty."""
    job_sha256: str
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of what the bits of a result depend on."""

    @property
    def alike(self) -> dict[str, str]:
        """What must be the same on every host: what it is called -> its value."""
        found = {"the job file's sha256": self.job_sha256}
        found |= {name: str(getattr(self, name)) for name in ("micro_batches", "batch_size", "seed", "precision")}
        return found | {f"{name}'s version": self.versions.get(name, "none") for name in _ALIKE}

    @staticmethod
    def read(data: Any) -> Facts:
        """Read facts from JSON.

        Raises:
            MessageError: it is something else.
        """
        return decode_as(Facts, data)
