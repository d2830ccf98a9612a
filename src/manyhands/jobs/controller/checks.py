"""What comes from outside, checked at the door: requests, rows of the database, files of a job.

Each function returns the value, of its type and within its bounds, or says in a sentence what is wrong with it.
"""

from __future__ import annotations

import math
import unicodedata
from typing import Any

from manyhands.errors import UsageError

LONGEST_PATH = 4095
"""The most characters of a path; Linux takes no more bytes."""
_SHOWN = 60
"""How many characters of a wrong value are shown."""


def text(what: str, value: Any, longest: int, *, empty: bool = False, lines: bool = False) -> str:
    """The value, if it is a text that may be shown and written down.

    Args:
        what: the value's name, for the error.
        longest: how many characters the text may have.
        empty: whether the text may be empty.
        lines: whether the text may hold control characters but NUL, as line breaks.

    Raises:
        UsageError: the value is something else.
    """
    if not isinstance(value, str):
        raise _wrong(what, value, "text")
    if not value and not empty:
        raise UsageError(f"{what} is empty.")
    if len(value) > longest:
        raise UsageError(f"{what} has {len(value)} characters; {longest} are allowed.")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{what} is not UTF-8: {_short(value)}. Rename it.") from None
    if "\0" in value or (not lines and any(unicodedata.category(letter) == "Cc" for letter in value)):
        raise UsageError(f"{what} holds a control character: {_short(value)}. Rename it.")
    return value


def path(what: str, value: Any) -> str:
    """The value, if it is an absolute path.

    Raises:
        UsageError: the value is something else.
    """
    if not text(what, value, LONGEST_PATH).startswith("/"):
        raise _wrong(what, value, "an absolute path")
    return value


def whole(what: str, value: Any, least: int, most: int) -> int:
    """The value, if it is a whole number from `least` to `most`.

    Raises:
        UsageError: the value is something else.
    """
    if type(value) is not int or not least <= value <= most:  # true and false are no numbers here
        raise _wrong(what, value, f"a whole number from {least} to {most}")
    return value


def number(what: str, value: Any) -> float:
    """The value, if it is a finite number, between -1e15 and 1e15.

    Raises:
        UsageError: the value is something else.
    """
    if type(value) not in (int, float) or not -1e15 < value < 1e15 or not math.isfinite(value):
        raise _wrong(what, value, "a number")
    return value


def truth(what: str, value: Any) -> bool:
    """The value, if it is true or false.

    Raises:
        UsageError: the value is neither.
    """
    if not isinstance(value, bool):
        raise _wrong(what, value, "true or false")
    return value


def sequence(what: str, value: Any, longest: int) -> list[Any]:
    """The value as a list, if it is one of at most `longest` entries; those are not looked at.

    Raises:
        UsageError: the value is something else.
    """
    if not isinstance(value, list | tuple):
        raise _wrong(what, value, "a list")
    if len(value) > longest:
        raise UsageError(f"{what} has {len(value)} entries; {longest} are allowed.")
    return list(value)


def table(what: str, value: Any, longest: int) -> dict[str, Any]:
    """The value, if it is an object of at most `longest` entries; those are not looked at.

    Raises:
        UsageError: the value is something else.
    """
    if not isinstance(value, dict):
        raise _wrong(what, value, "an object")
    if len(value) > longest:
        raise UsageError(f"{what} has {len(value)} entries; {longest} are allowed.")
    return value


def _wrong(what: str, value: Any, wanted: str) -> UsageError:
    return UsageError(f"{what} is {_short(value)}: it has to be {wanted}.")


def _short(value: Any) -> str:
    """The beginning of a value, in letters that every terminal shows."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    if type(value) is int and abs(value) > 10**_SHOWN:
        return "a very large number"
    shown = ascii(value)
    return shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "..."
