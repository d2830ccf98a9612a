"""The jobs of a trace, as columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from manyhands.jobs.state import Floats, Ints


@dataclass(frozen=True, kw_only=True)
class Trace:
    """Jobs in the order of submission; times in seconds.

    Attributes:
        seconds: what a job takes on `least` workers that it has for itself, on one host if they fit.
        spread: a job's speed on more hosts than it needs, over that on as few as can be.
        names: the jobs' names.
        users, kinds: the names of what the columns `user` and `kind` index.
        left_out: rows of the file that ask for no slot, or never ran.
    """

    name: str
    submitted: Floats
    least: Ints
    most: Ints
    seconds: Floats
    user: Ints
    priority: Ints
    kind: Ints
    spread: Floats
    names: Sequence[str]
    users: Sequence[str]
    kinds: Sequence[str]
    left_out: int = 0

    def __len__(self) -> int:
        return len(self.submitted)

    def first(self, count: int | None) -> Trace:
        """The trace of the first jobs, so many of them; None: of all."""
        if count is None or count >= len(self):
            return self
        columns = {f.name: getattr(self, f.name) for f in fields(self)}
        cut = {name: value[:count] for name, value in columns.items() if isinstance(value, np.ndarray)}
        return replace(self, **cut, names=self.names[:count])

    @property
    def work(self) -> Floats:
        """Slot-seconds that each job asks for."""
        return self.seconds * self.least

    def load(self, slots: int) -> float:
        """Slot-seconds asked for, over those that there are while jobs come."""
        return float(self.work.sum() / (slots * max(1e-9, float(np.ptp(self.submitted)))))

    def at_load(self, load: float, slots: int) -> Trace:
        """The same jobs, submitted faster or slower, so that those that fit make this load."""
        fits = self.least <= slots
        factor = float(self.work[fits].sum()) / (slots * load * max(1e-9, float(np.ptp(self.submitted))))
        return replace(self, submitted=(self.submitted - self.submitted[:1]) * factor)
