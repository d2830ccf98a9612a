"""Speeds of jobs that share slots, as files: a CSV of ours, and what Gavel measured.

Ours has the columns `first`, `second` (kinds, as in a trace), `speed_first`, `speed_second`: each one's speed beside
the other over its speed alone; 0 and 0 for two that do not fit side by side. Gavel's (Narayanan et al., OSDI 2020) is a
JSON of iterations per second by device, job, and what it shares the device with.
"""

from __future__ import annotations

import ast
import csv
import json
from pathlib import Path
from typing import Any, NamedTuple

from manyhands.errors import UserError

Speeds = tuple[float, float]


class MeasuredPairs(NamedTuple):
    """Speeds of two kinds that share slots, by their indexes into `kinds`."""

    kinds: list[str]
    speeds: dict[tuple[int, int], Speeds]


def read_pairs(path: Path, device: str = "v100") -> MeasuredPairs:
    """The speeds of pairs that a file holds.

    Args:
        device: which of the devices in Gavel's file.

    Raises:
        UserError: the file cannot be read, or something in it is wrong; the text says what.
    """
    try:
        text = path.read_text()
        if text.lstrip().startswith("{"):
            return _gavel(json.loads(text), device)
        return _own(text)
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise UserError(f"cannot read pairs from {path}: {reason}.") from None


def _own(text: str) -> MeasuredPairs:
    found: dict[tuple[str, str], Speeds] = {}
    for number, line in enumerate(csv.DictReader(text.splitlines()), 2):
        try:
            speeds = float(line["speed_first"]), float(line["speed_second"])
            if not 0 <= min(speeds) <= max(speeds) <= 10:
                raise ValueError("a speed is out of range")
            found[line["first"], line["second"]] = speeds
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"line {number}: {error}") from None
    return _indexed(found)


def _gavel(data: dict[str, Any], device: str) -> MeasuredPairs:
    """The pairs of one device in Gavel's file; rates become speeds over the rate alone."""
    if device not in data:
        raise ValueError(f"there is no device {device}; there are {', '.join(data)}")
    rates = {job: pairs for job, pairs in data[device].items() if ast.literal_eval(job)[1] == 1}
    found: dict[tuple[str, str], Speeds] = {}
    for job, pairs in rates.items():
        for other, pair in pairs.items():
            if other in rates:
                own, its = pair[0] / pairs["null"], pair[1] / rates[other]["null"]
                found[ast.literal_eval(job)[0], ast.literal_eval(other)[0]] = (
                    (own, its) if min(own, its) > 0 else (0.0, 0.0)
                )
    return _indexed(found)


def _indexed(found: dict[tuple[str, str], Speeds]) -> MeasuredPairs:
    kinds = sorted({kind for pair in found for kind in pair})
    index = {kind: i for i, kind in enumerate(kinds)}
    speeds = {(index[b], index[a]): pair[::-1] for (a, b), pair in found.items()}
    speeds |= {(index[a], index[b]): pair for (a, b), pair in found.items()}
    return MeasuredPairs(kinds, speeds)
