"""What server 0 knows of the whole: who may compute what, and how far the job is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from manyhands.sync.server.clocks import Clocks
from manyhands.sync.server.messages import Push, Why
from manyhands.sync.server.work import Share, Work
from manyhands.wire import Data


class Committed(NamedTuple):
    """A step of which all shares were applied."""

    step: int
    """The step's number, counted from 0."""
    loss: float
    """Mean loss over the step's micro-batches, each at the weights that it was computed with."""
    norm: float | None
    """Mean of the norms of the shares' gradients, if they are clipped."""
    lr: float
    staleness: int
    """The most pushes of others that were applied between a share's pull and its push."""
    ahead: int
    """How many shares the fastest worker was ahead of the slowest, at most."""
    began: int
    """When the first of the step's shares was handed out, in monotonic ns."""


class Chief:
    """The state of the work, as server 0 knows it. Its caller has the lock.

    Args:
        parts: shares of a step.
        total: steps of the job.
        bound: how far the fastest worker may be ahead; None: no bound.
        kept: of `capture`.
    """

    def __init__(self, parts: int, total: int, bound: int | None, kept: Mapping[str, Any] | None = None) -> None:
        self.work = Work(parts, total, kept["work"] if kept else None)
        self.clocks = Clocks(bound)
        self.limit: int | None = None
        """The step from which on nothing is handed out: the run is to pause."""
        self._unsaid = [Committed(*row) for row in (kept or {}).get("unsaid", [])]
        """Steps that were committed, and that the ledger may not know of yet: another chief goes on with them."""
        self._figures: dict[int, dict[str, Any]] = {int(k): v for k, v in (kept or {}).get("figures", {}).items()}

    def join(self, worker: int, clock: int | None, share: Share | None) -> None:
        """A worker comes, or comes back to what it held, when another chief has taken over."""
        self.clocks.join(worker)
        if clock is not None:
            self.clocks.put(worker, clock)
        if share is not None and self.work.hold(worker, share):
            self._figures_of(share.step, 0)

    def leave(self, worker: int) -> None:
        self.clocks.leave(worker)
        self.work.lost(worker)

    def pause(self) -> None:
        """Finish the steps that were begun, and no more."""
        self.limit = self.work.begun

    @property
    def over(self) -> Why | None:
        """Why nothing more will be handed out; None if something may."""
        if self.work.finished:
            return "finished"
        paused = self.limit is not None and (self.work.committed >= self.limit or not self.clocks.workers)
        return "paused" if paused else None

    def claim(self, worker: int, now: int) -> Share | None:
        """A share for the worker, if there is one that it may begin."""
        if not self.clocks.may_begin(worker):
            return None
        share = self.work.claim(worker, self.limit)
        if share is not None:
            self._figures_of(share.step, now)
        return share

    def done(self, push: Push, staleness: int, lr: float) -> None:
        """A worker's share was applied."""
        worker = push.worker
        figures = self._figures_of(push.share.step, 0)
        figures["losses"] += push.losses
        figures["norms"] += [] if push.norm is None else [push.norm]
        figures["staleness"] = max(figures["staleness"], staleness)
        self.clocks.tick(worker)
        figures["ahead"] = max(figures["ahead"], self.clocks.spread)
        for step in self.work.done(worker):
            f = self._figures.pop(step)
            loss = math.fsum(f["losses"]) / len(f["losses"])
            norm = math.fsum(f["norms"]) / len(f["norms"]) if f["norms"] else None
            self._unsaid.append(Committed(step, loss, norm, lr, f["staleness"], f["ahead"], f["began"]))

    def since(self, step: int) -> list[Committed]:
        """Steps from this one on, counted from 0, that were committed, and nobody has said so."""
        return [row for row in self._unsaid if row.step >= step]

    def said(self, steps: int) -> None:
        """The ledger knows of so many steps."""
        self._unsaid = self.since(steps)

    def _figures_of(self, step: int, now: int) -> dict[str, Any]:
        return self._figures.setdefault(step, {"losses": [], "norms": [], "staleness": 0, "ahead": 0, "began": now})

    def capture(self) -> Data:
        """The chief's knowledge as plain data."""
        figures = {str(step): figures for step, figures in self._figures.items()}
        return {"work": self.work.capture(), "figures": figures, "unsaid": [list(row) for row in self._unsaid]}
