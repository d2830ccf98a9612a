"""Waiting for what a group does, so that whoever looks can tell a worker that waits from one that works."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")

_EXCHANGE_SECONDS = 0.2
"""Seconds of an exchange at most: what a worker waits for longer is another worker."""

OnWait = Callable[[bool], None]
"""Called with True when a worker has to wait for others, and with False when that is over."""


def wait_for(future: Future[T], on_wait: OnWait) -> T:
    """The future's result.

    Raises:
        GroupError: as the group says.
    """
    try:
        return future.result(_EXCHANGE_SECONDS)
    except TimeoutError:
        if future.done():  # the group's own deadline
            raise
    on_wait(True)
    try:
        return future.result()
    finally:
        on_wait(False)
