"""`manyhands show`: how a run stands."""

from __future__ import annotations

import dataclasses
import json
from collections import deque
from dataclasses import dataclass
from typing import Any

from manyhands.cli.groups import ExistingRun
from manyhands.errors import UserError
from manyhands.run import RunDirectory, read_journal, read_json


@dataclass(frozen=True, kw_only=True)
class Show(ExistingRun):
    """Show how a run stands: its status, step and workers."""

    json: bool = False
    """Print JSON: `status`, `step`, `total_steps`, `loss`, `workers` and `servers` (rank, pid, host),
    `weights_sha256`."""

    def run(self, job_arguments: list[str]) -> int:
        directory = RunDirectory.open(self.directory)
        from manyhands.engine import HERE

        status = _status(directory)
        if self.json:
            print(json.dumps(status))
            return 0
        loss = f", loss {status['loss']:.4f}" if status.get("loss") is not None else ""
        print(f"{self.directory}: {status['status']}, step {status['step']} of {status['total_steps'] or '?'}{loss}")
        for kind in ("worker", "server"):
            for member in status.get(f"{kind}s", []):
                where = f" on {member['host']}" if member["host"] != HERE else ""
                print(f"  {kind} {member['rank']}: process {member['pid']}{where}")
        if status.get("check"):
            print(f"  {status['check']}")
        if status.get("weights_sha256"):
            print(f"  weights {status['weights_sha256']}")
        if status.get("error"):
            print(f"  {status['error']}")
        return 0


def _status(directory: RunDirectory) -> dict[str, Any]:
    """How a run stands: from its supervisor if one runs, else from what it left behind."""
    if directory.is_live():
        try:
            return {"weights_sha256": None, **dataclasses.asdict(directory.show())}
        except UserError:
            return {
                "status": "starting",
                "step": 0,
                "total_steps": 0,
                "loss": None,
                "workers": [],
                "weights_sha256": None,
            }
    result = read_json(directory.result)
    last: dict[str, Any] = next(iter(deque(read_journal(directory.ledger), maxlen=1)), {})
    return {
        "status": result.get("status", "interrupted"),
        "step": last.get("step", 0),
        "total_steps": result.get("total_steps", 0),
        "loss": last.get("loss"),
        "workers": [],
        "weights_sha256": result.get("weights_sha256"),
        "error": result.get("error"),
    }
