"""A run, as Python sees it: its figures, its model, and what can be asked of it while it trains."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from manyhands.errors import UserError
from manyhands.gang.held import HeldJob
from manyhands.plan import Layout, Sync
from manyhands.run import Done, Resize, RunDirectory, Stop, read_journal, read_json

if TYPE_CHECKING:
    from torch import nn


_RESIZE_SECONDS = 60.0
"""The supervisor first reaches for hosts that are new, and bears with a busy one for half a minute."""


class Outcome(Protocol):
    """How a run in another thread has ended."""

    code: int | None
    error: BaseException | None


class Run:
    """One run of a job, alive or over: what its directory says.

        run = manyhands.train("job.py", wait=False)
        run.resize(workers=4)
        run.wait().metrics["accuracy"]

    Args:
        directory: of the run.
        held: its job, if that is no file.

    Attributes:
        directory: a path.
        exit_code: 0 finished, 1 failed, 130 stopped; None while it lives, or if another process trained it.
    """

    def __init__(self, directory: str | Path, held: HeldJob | None = None) -> None:
        self.directory = Path(directory)
        self.exit_code: int | None = None
        self._files, self._held = RunDirectory(self.directory), held
        self._thread: threading.Thread | None = None
        self._outcome: Outcome | None = None

    def follow(self, thread: threading.Thread, outcome: Outcome) -> None:
        """Take note that the run trains in this thread, and that `outcome` will tell how it ended."""
        self._thread, self._outcome = thread, outcome

    # What it is

    @property
    def status(self) -> str:
        """`running`, `ending`, `finished`, `stopped`, `failed`, or `interrupted` if nobody could write down its end."""
        if self._files.is_live():
            try:
                return self._files.show().status
            except UserError:
                return "ending" if self._files.result.exists() else "running"
        return str(self._result.get("status", "interrupted"))

    @property
    def step(self) -> int:
        """Committed steps."""
        return max((line["step"] for line in read_journal(self._files.ledger)), default=0)

    @property
    def metrics(self) -> dict[str, float]:
        """The newest figures: `step`, `loss` and `lr` of the last step, and those of the last evaluation by the names
        that the job gave them (its loss as `evaluation_loss`)."""
        steps, evaluations = self.history, self.evaluations
        found = {name: steps[-1][name] for name in ("step", "loss", "lr", "grad_norm") if steps and name in steps[-1]}
        last = {name: value for name, value in (evaluations[-1] if evaluations else {}).items() if name != "step"}
        return found | {("evaluation_loss" if name == "loss" else name): value for name, value in last.items()}

    @property
    def history(self) -> list[dict[str, float]]:
        """Every committed step: `step`, `loss`, `lr`, `seconds`, `workers`, and `grad_norm` if the job clips it."""
        return [_but(line, "kind", "time") for line in self._metrics("step")]

    @property
    def evaluations(self) -> list[dict[str, float]]:
        """Every evaluation: `step`, and the figures."""
        return [_but(line, "kind", "time") for line in self._metrics("evaluation")]

    @property
    def weights_sha256(self) -> str | None:
        """A digest of the final weights; None if the run has not finished."""
        return self._result.get("weights_sha256")

    @property
    def report(self) -> Path:
        """The page that explains the run, once it has ended."""
        return self._files.report

    def model(self) -> nn.Module:
        """The job's model with the newest whole checkpoint's weights, on the CPU, in evaluation mode.

        Raises:
            UserError: there is no whole checkpoint yet.
        """
        from manyhands.api.load import load_from

        return load_from(self._files, self._held)

    # What can be asked of it

    def wait(self, timeout: float | None = None) -> Run:
        """Wait until the run has ended, or for so many seconds; returns the run.

        Raises:
            UserError: it has failed; says of what.
        """
        if self._thread is None or self._outcome is None:
            return self
        self._thread.join(timeout)
        if self._thread.is_alive():
            return self
        self.exit_code, error = self._outcome.code, self._outcome.error
        self._thread = None
        if error is not None:
            raise error
        return self

    def resize(
        self,
        workers: int | None = None,
        *,
        layout: Layout | str | None = None,
        sync: Sync | str | None = None,
        hosts: str | None = None,
        server_hosts: str | None = None,
    ) -> None:
        """Go on with another gang from the next step boundary on. The result stays the same.

        Raises:
            UserError: it cannot be; the run goes on as it is.
        """
        if layout is not None:
            found = layout if isinstance(layout, Layout) else Layout.parse(layout, workers)
            workers, layout = found.workers, str(found)
        if sync is not None:
            sync = str(sync if isinstance(sync, Sync) else Sync.parse(sync))
        self._files.ask(Resize(workers, layout, sync, hosts, server_hosts), Done, _RESIZE_SECONDS)

    def stop(self, wait: bool = True) -> None:
        """End the run at the next step boundary, with a checkpoint; `manyhands.resume(run.directory)` goes on.

        Raises:
            UserError: it is not running.
        """
        self._files.ask(Stop(), Done)
        if wait:
            self.wait()

    # How it looks

    def __repr__(self) -> str:
        return f"Run({str(self.directory)!r}, {self.status}, step {self.step})"

    def _repr_html_(self) -> str:
        """The run as notebooks show it: how it stands, and its loss."""
        from manyhands.api.notebook import card

        losses = [(int(row["step"]), row["loss"]) for row in self.history]
        return card(str(self.directory), f"{self.status}, step {self.step}", self.metrics, losses)

    @property
    def _result(self) -> Mapping[str, Any]:
        return read_json(self._files.result)

    def _metrics(self, kind: str) -> list[dict[str, Any]]:
        return [line for line in read_journal(self._files.metrics) if line["kind"] == kind]


def _but(line: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name not in names}
