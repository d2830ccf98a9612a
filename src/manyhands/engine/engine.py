"""What starts workers and carries messages to them, whatever the machines are.

An engine runs *an entry*: a function `(spec, place)` that is called once, where modules are loaded and checked, and
returns what it found (`Loaded`) and the main function that every worker then runs. `local` forks workers on this
machine; an engine for a cluster starts the same workers on other nodes. Policies (how many workers, when to restart)
live above, in the supervisor; an engine only does what it is told and reports what happens, as `EngineEvent`s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from manyhands.engine.messages import Linking, Loaded
from manyhands.wire import Data


@dataclass(frozen=True)
class Said:
    """A worker sent a message, which the engine does not read."""

    worker: int
    message: Data


@dataclass(frozen=True)
class Printed:
    """A worker wrote a line to its standard output or error."""

    worker: int
    line: str


@dataclass(frozen=True)
class Exited:
    """A worker is gone; everything it said came before this.

    `status` is its exit code, minus the signal's number if one killed it, or None if nobody could tell.
    """

    worker: int
    status: int | None


HERE = "here"
"""The host of the supervisor."""

EngineEvent = Said | Printed | Exited


class Engine(Protocol):
    """What an engine can do, in twelve verbs. Workers are named by numbers that are never used twice."""

    def report_to(self, on_event: Callable[[EngineEvent], None]) -> None:
        """Say who is told what happens; has to be said before a worker is started."""
        ...

    def open(self) -> Loaded:
        """Load the entry.

        Raises:
            UserError: the entry refused what it was given.
        """
        ...

    def reach(self, hosts: Mapping[str, tuple[str, int]]) -> int:
        """Have more hosts, with names and addresses, take part from now on. Returns how many CUDA devices there are.

        Raises:
            UserError: one cannot.
        """
        ...

    def start(self, worker: int, host: str = HERE) -> int:
        """Start a worker on a host; returns its process id there.

        Raises:
            UserError: it cannot be started.
        """
        ...

    def connect(self, workers: Sequence[int], messages: Sequence[Linking]) -> None:
        """Link the workers with each other and send each its message; `workers[rank]` gets `messages[rank]`. Links are
        descriptors that come with the message; or its `meeting` says where they find each other."""
        ...

    def clock(self, worker: int) -> int:
        """What to add to the times that a worker tells, in ns, to have those of this machine."""
        ...

    def send(self, worker: int, message: object) -> None:
        """Send a worker a message, a dataclass; silently nothing if it is gone, since its `Exited` says so."""
        ...

    def clogged(self, worker: int) -> int:
        """When the worker was last seen to wait for its output to be read, in monotonic ns: that is no hang. 0 if
        never, or if what the board says of it has that in it."""
        ...

    def stacks(self, worker: int) -> None:
        """Have the worker print the stacks of all its threads."""
        ...

    def kill(self, worker: int) -> None:
        """End a worker at once."""
        ...

    def poll(self, timeout: float) -> None:
        """Wait up to `timeout` seconds for something to happen and report it."""
        ...

    def close(self) -> None:
        """End all workers and let go of everything."""
        ...
