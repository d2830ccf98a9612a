"""Groups whose ranks are threads of one process, and what they meet through."""

import threading
import time
from contextlib import contextmanager

from deadlines import DEADLINE, Deadline

from manyhands.transport import Group, caller

NEVER = 10 * DEADLINE
"""The groups' timeout: far beyond the deadline, so that what must be noticed was not waited for."""


def together(*functions):
    """Run the functions in threads; their results, or the exceptions they raised, within the deadline."""
    results = [None] * len(functions)

    def run(index, function):
        try:
            results[index] = function()
        except Exception as error:
            results[index] = error

    threads = [threading.Thread(target=run, args=pair, daemon=True) for pair in enumerate(functions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
        assert not thread.is_alive(), f"still running after {DEADLINE} s"
    return results


class Store:
    """A store as torch's, in memory."""

    def __init__(self):
        self._values, self._changed = {}, threading.Condition()

    def set(self, key, value):
        with self._changed:
            self._values[key] = value
            self._changed.notify_all()

    def get(self, key):
        with self._changed:
            assert self._changed.wait_for(lambda: key in self._values, DEADLINE), f"nobody set {key}"
            return self._values[key]


def no_unix(monkeypatch):
    """Ranks do not see that they share a host, and connect over TCP."""
    monkeypatch.setattr(caller, "_unix", lambda name: None)


def join(world, *, portable=(), timeout=NEVER, **options):
    """Groups of ranks that joined, some of which interpret in Python."""
    store = Store()

    def rank(r):
        return lambda: Group.connect(store, r, world, timeout=timeout, portable=r in portable, **options)

    groups = together(*(rank(r) for r in range(world)))
    for group in groups:
        if isinstance(group, Exception):
            raise group
    return groups


def until(condition, what):
    end = Deadline()
    while not condition():
        assert not end.passed, f"waited {end} for {what}"
        time.sleep(0.002)


@contextmanager
def joined(world, **options):
    """As `join`; closed at the end."""
    groups = join(world, **options)
    try:
        yield groups
    finally:
        together(*(group.close for group in groups))


def call(groups, name, arguments):
    """Have every rank call an operation; the results, or the exceptions."""
    return outcomes([getattr(group, name)(*row) for group, row in zip(groups, arguments, strict=True)])


def outcomes(futures):
    """Results or exceptions; fails if one does not come in time."""
    end = time.monotonic() + DEADLINE
    row = []
    for future in futures:
        error = future.exception(max(0.0, end - time.monotonic()))
        row.append(future.result() if error is None else error)
    return row
