"""What a controller has to run jobs on: hosts that come and go, and their slots, which keep their numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from manyhands.engine import HERE


class Cluster:
    """The hosts of a cluster, by name (`HERE` is this machine), and their slots, by number.

    Args:
        known: the host of each slot, as a former controller had them: a host that comes again has the same slots.
        cuda: whether slots are CUDA devices.
    """

    def __init__(self, known: Sequence[str] = (), cuda: bool = False) -> None:
        self.slots: list[str] = list(known)
        """The host of each slot, be it there or not."""
        self.cuda = cuda
        self._slots_of: dict[str, list[int]] = {}
        self._there: set[str] = set()

    def become(self, hosts: Mapping[str, int]) -> None:
        """Let the cluster have these hosts, with so many slots each; a host is there once it has `come`."""
        for host in set(self._slots_of) - set(hosts):
            self.go(host)
            del self._slots_of[host]
        for host, count in hosts.items():
            own = [slot for slot, name in enumerate(self.slots) if name == host][:count]
            fresh = range(len(self.slots), len(self.slots) + count - len(own))
            self.slots += [host] * len(fresh)
            self._slots_of[host] = [*own, *fresh]

    def come(self, host: str) -> None:
        """Note that a host is there."""
        self._there.add(host)

    def go(self, host: str) -> None:
        """Note that a host is gone."""
        self._there.discard(host)

    @property
    def hosts(self) -> Mapping[str, Sequence[int]]:
        """The slots of each host, be it there or not."""
        return self._slots_of

    @property
    def live(self) -> list[int]:
        """The slots of the hosts that are there, in ascending order."""
        return sorted(slot for host in self._there for slot in self._slots_of.get(host, ()))

    def is_there(self, host: str) -> bool:
        return host in self._there

    @property
    def size(self) -> int:
        """How many slots all hosts have together."""
        return sum(map(len, self._slots_of.values()))

    @property
    def alone(self) -> bool:
        """Whether no other machine takes part."""
        return set(self._slots_of) == {HERE}

    def places(self, slots: Sequence[int]) -> str:
        """What `--hosts` has to be for a gang on these slots."""
        counts = Counter(self.slots[slot] for slot in slots)
        return ",".join(f"{host}={count}" for host, count in counts.items())
