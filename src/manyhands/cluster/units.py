"""Bandwidths and latencies as people write them: "25 MB/s", "200 Mbit/s", "10 us".

A bandwidth is an integer of bytes/s, a latency a float of seconds. What is written here is read back exactly.
"""

from __future__ import annotations

import re
from decimal import Decimal

from manyhands.errors import UserError

_QUANTITY = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?\s*([A-Za-z/µμ]*)\s*")
_PREFIXES = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_SECONDS = {"s": 0, "ms": -3, "us": -6, "µs": -6, "μs": -6, "ns": -9}
_EXAMPLES = 'a number of bytes/s, or text such as "25 MB/s", "1.5 GB/s", "200 Mbit/s"'


def parse_bandwidth(text: str | int | float) -> int:
    """Bytes/s. B is a byte; b and bit are bits; a plain number is bytes/s. `/s` may be left out.

    Raises:
        UserError: not a bandwidth, not positive, or not a whole number of bytes/s.
    """
    match = _QUANTITY.fullmatch(str(text)) if not isinstance(text, bool) else None
    scale = _bandwidth_unit(match[3]) if match else None
    if match is None or scale is None:
        raise UserError(f"{text!r} is not a bandwidth. Give {_EXAMPLES}.")
    value = Decimal(match[1] + (match[2] or "")) * scale
    if value <= 0 or value != int(value):
        raise UserError(
            f"{text!r} is {value.normalize():f} bytes/s; a bandwidth is a positive whole number of bytes/s."
        )
    return int(value)


def _bandwidth_unit(unit: str) -> Decimal | None:
    """Bytes/s of one unit; None if it is none."""
    if unit in ("", "B/s", "B"):
        return Decimal(1)
    unit = unit.removesuffix("/s")
    for ending, size in (("bps", 8), ("bits", 8), ("bit", 8), ("Bps", 1), ("B", 1), ("b", 8)):
        prefix = unit.removesuffix(ending)
        if prefix != unit:
            factor = (_PREFIXES | _BINARY).get(prefix)
            return None if factor is None else Decimal(factor) / size
    return None


def parse_latency(text: str | int | float) -> float:
    """Seconds; a plain number is seconds.

    Raises:
        UserError: not a latency.
    """
    match = _QUANTITY.fullmatch(str(text)) if not isinstance(text, bool) else None
    power = _SECONDS.get(match[3] or "s") if match else None
    if match is None or power is None:
        raise UserError(f'{text!r} is not a latency. Give seconds, or text such as "10 us", "0.5 ms", "2 s".')
    return float(Decimal(match[1] + (match[2] or "")).scaleb(power))


def is_latency(text: str) -> bool:
    """Whether a quantity has a unit of time."""
    match = _QUANTITY.fullmatch(text)
    return match is not None and match[3] in _SECONDS


def format_bandwidth(value: int, digits: int | None = None) -> str:
    """A bandwidth in the largest fitting unit, exactly, or rounded to so many significant digits."""
    power, prefix = next(((p, u) for p, u in ((12, "T"), (9, "G"), (6, "M"), (3, "k")) if value >= 10**p), (0, ""))
    return f"{_number(Decimal(value).scaleb(-power), digits)} {prefix}B/s"


def format_latency(value: float, digits: int | None = None) -> str:
    """A latency in the largest fitting unit, exactly (what `parse_latency` reads back), or rounded."""
    exact = Decimal(repr(float(value)))
    units = (("s", 0), ("ms", -3), ("us", -6), ("ns", -9))
    unit, power = next(
        ((u, p) for u, p in units if exact >= Decimal(1).scaleb(p)), ("s", 0) if exact == 0 else units[-1]
    )
    return f"{_number(exact.scaleb(-power), digits)} {unit}"


def _number(value: Decimal, digits: int | None) -> str:
    if digits is not None and value:
        value = round(value, digits - 1 - value.adjusted())
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
