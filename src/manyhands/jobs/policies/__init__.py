"""Who gets which slots: pure functions from a `State` to decisions, the same for live jobs and for the simulator."""

from __future__ import annotations

from collections.abc import Callable

from manyhands.errors import UsageError
from manyhands.jobs.policies.consolidate import consolidating
from manyhands.jobs.policies.elastic import growing
from manyhands.jobs.policies.fifo import fifo
from manyhands.jobs.policies.pack import packing
from manyhands.jobs.policies.ranked import fair, least_attained_service, priority
from manyhands.jobs.state import Decision, State

Policy = Callable[[State], list[Decision]]

LEVELS = (3600.0, 10 * 3600.0)
"""Slot-seconds that part the levels of `las`, unless told otherwise."""

POLICIES: dict[str, Policy] = {
    "fifo": fifo,
    "priority": priority,
    "las": least_attained_service(*LEVELS),
    "fair": fair,
    "elastic": growing(fifo),
}
WRAPPERS: dict[str, Callable[[Policy, float], Policy]] = {
    "elastic": growing,
    "consolidate": consolidating,
    "pack": lambda policy, pause: packing(policy),
}


def policy_of(name: str, pause: float = 5.0) -> Policy:
    """The policy of a name: `fifo`, `las:600:6000`, or with additions `priority+elastic+consolidate`.

    `elastic` alone is `fifo+elastic`.

    Args:
        pause: seconds that a move takes.

    Raises:
        UsageError: there is no such policy.
    """
    base, *added = name.split("+")
    kind, *numbers = base.split(":")
    if kind == "las" and numbers:
        try:
            policy = least_attained_service(*map(float, numbers))
        except ValueError:
            raise UsageError(f"--policy {name}: levels are slot-seconds, as in las:600:6000.") from None
    elif base in POLICIES:
        policy = POLICIES[base]
    else:
        raise UsageError(f"--policy {name}: there is no {base!r}. Policies: {', '.join(POLICIES)}.")
    for wrapper in added:
        if wrapper not in WRAPPERS:
            raise UsageError(f"--policy {name}: there is no {wrapper!r} to add. There are: {', '.join(WRAPPERS)}.")
        policy = WRAPPERS[wrapper](policy, pause)
    return policy


__all__ = [
    "LEVELS",
    "POLICIES",
    "WRAPPERS",
    "Policy",
    "consolidating",
    "fair",
    "fifo",
    "growing",
    "least_attained_service",
    "packing",
    "policy_of",
    "priority",
]
