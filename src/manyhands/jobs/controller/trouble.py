"""Faults of our own, for the controller's log: said once each, however often they come."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable

_said: set[str] = set()
_MOST = 1000
"""How many different faults are remembered."""


def complain(what: str) -> None:
    """Say that something failed, and with which exception; called while that exception is handled."""
    text = f"manyhands: {what}:\n{traceback.format_exc()}"
    if text in _said:
        return
    if len(_said) >= _MOST:
        _said.clear()
    _said.add(text)
    sys.stderr.write(text)
    sys.stderr.flush()


def attempt(act: Callable[[], None], what: str) -> None:
    """Do something; if it fails, complain that `what`, and let others go on."""
    try:
        act()
    except Exception:
        complain(what)
