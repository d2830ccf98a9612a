"""How a run ends, and what is written down of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from manyhands.run import RunDirectory, write_json
from manyhands.supervise.record import Record
from manyhands.supervise.standing import Ending


def conclude(
    directory: RunDirectory, ending: Ending, record: Record, figures: dict[str, Any], note: Callable[[str], None]
) -> int:
    """Close the record and write `result.json`. Returns the exit code: 0 finished, 1 failed, 130 interrupted.

    A finished run whose last checkpoint or result the disk refused has failed, and says so.
    """
    result: dict[str, Any] = {
        "status": ending.status,
        "steps": record.committed,
        "loss": record.loss,
        "metrics": record.evaluation if record.evaluated == record.committed else {},
        "recoveries": record.recoveries,
        "deviations": record.deviations,
        "exchange": record.exchange,
        **figures,
    }
    if ending.status != "finished":
        result["error"] = ending.error
    record.membership("ended", 0, ending.status)
    record.close()
    try:
        write_json(directory.result, result)
    except OSError as error:
        note(f"cannot write {directory.result}: {error.strerror}. Free some space.")
        return 1
    if ending.status == "finished" and figures["durable_step"] < record.committed:
        note("the last checkpoint could not be written; free some space and resume the run.")
        return 1
    return {"finished": 0, "failed": 1, "stopped": 130}[ending.status]
