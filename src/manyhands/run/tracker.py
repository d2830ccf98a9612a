"""Where a run's figures go besides the run directory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from manyhands.errors import UsageError
from manyhands.run.journal import Journal


class Tracker(Protocol):
    """Receives a run's figures as they come. Called in the supervisor, never in a worker."""

    def log(self, kind: str, figures: Mapping[str, Any]) -> None:
        """Take one record.

        Args:
            kind: `step`, `evaluation`, `membership` or `phases`.
            figures: always with `step`.
        """
        ...

    def close(self) -> None:
        """No more records come."""
        ...


class JsonLines:
    """Writes every record to a journal: `metrics.jsonl`."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def log(self, kind: str, figures: Mapping[str, Any]) -> None:
        self._journal.append({"kind": kind, **figures})

    def close(self) -> None:
        self._journal.close()


class TensorBoard:
    """Writes scalars for TensorBoard (extra `tensorboard`).

    Raises:
        UsageError: tensorboard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UsageError("--tracker tensorboard needs tensorboard: pip install 'manyhands[tensorboard]'") from None
        self._writer: Any = SummaryWriter(str(folder))

    def log(self, kind: str, figures: Mapping[str, Any]) -> None:
        prefix = {"step": "train", "evaluation": "evaluate", "membership": "gang", "phases": "phases"}[kind]
        if kind == "phases":
            figures = {"step": figures["step"], **{f"{figures['rank']}/{k}": v for k, v in figures["seconds"].items()}}
        for name, value in figures.items():
            if name not in ("step", "time") and isinstance(value, int | float) and not isinstance(value, bool):
                self._writer.add_scalar(f"{prefix}/{name}", value, figures["step"])

    def close(self) -> None:
        self._writer.close()
