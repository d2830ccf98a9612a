"""*How* a job is run: plain data, printable and savable. A plan never changes the result, only the speed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from manyhands.errors import UsageError

Device = Literal["auto", "cpu", "cuda"]
Collective = Literal["auto", "direct", "ring", "bidirectional_ring", "tree", "star", "halving_doubling", "packed"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How many workers, on what.

    Raises:
        UsageError: a value makes no sense.
    """

    workers: int = 1
    """Processes that share every batch; at most the job's micro-batches."""
    device: Device = "auto"
    """`auto` takes CUDA where there is some, else the CPU."""
    threads: int = 1
    """Threads per worker on the CPU. Part of what fixes the bits: keep it the same to get the same weights."""
    workers_per_device: int = 1
    """Workers that may share one CUDA device."""
    collective: Collective = "auto"
    """How gradients travel. Changes the speed, never the sums."""

    def __post_init__(self) -> None:
        for name in ("workers", "threads", "workers_per_device"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} must be at least 1; it is {getattr(self, name)}.")

        if self.collective not in get_args(Collective):
            raise UsageError(f"--collective {self.collective}: there are {', '.join(get_args(Collective))}.")

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def check(self, micro_batches: int, cuda_devices: int) -> None:
        """Refuse what the job or the machine cannot carry.

        Raises:
            UsageError: more workers than micro-batches, or than places on the CUDA devices.
        """
        if self.workers > micro_batches:
            raise UsageError(
                f"{self.workers} workers cannot share {micro_batches} micro-batches: every worker needs at least one. "
                f"Use --workers {micro_batches} or fewer, or give the job more micro_batches."
            )
        if self.device == "cuda" and not cuda_devices:
            raise UsageError("--device cuda: this machine has no CUDA device that torch can use. Use --device cpu.")
        places = cuda_devices * self.workers_per_device
        if self.uses_cuda(cuda_devices) and self.workers > places:
            raise UsageError(
                f"{self.workers} workers need {self.workers} places, and {cuda_devices} CUDA device(s) with "
                f"{self.workers_per_device} worker(s) each have {places}. Use --workers {places}, or let workers share "
                f"a device: --workers-per-device {-(-self.workers // cuda_devices)}."
            )

    def uses_cuda(self, cuda_devices: int) -> bool:
        return self.device == "cuda" or (self.device == "auto" and cuda_devices > 0)
