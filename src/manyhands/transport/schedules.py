"""The programs that a group's operations are made of, planned when first needed and kept.

Rank 0 decides, so that all decide alike whatever their hardware, and tells the others once per operation, root and
order of magnitude. On one host no plan has to be told: all come to the same one.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

from manyhands.cluster import Cluster
from manyhands.collective import (
    LEAD,
    MEMORY_CHUNK,
    NETWORK_CHUNK,
    Forest,
    Operation,
    Program,
    Wire,
    compile_forest,
    compressed,
    count_ahead,
    count_chunks,
    forest_from_json,
    forest_to_json,
)
from manyhands.transport.agreement import Agreement, Say
from manyhands.transport.errors import WaitedTooLongError
from manyhands.transport.interpreter import Encoded
from manyhands.transport.planner import Planner, direct, names, planned, size_class

_REMEMBERED = 256
"""Programs that are kept."""


class Scheduled(NamedTuple):
    """This rank's program, and what identifies the plan that it is part of."""

    program: Encoded
    digest: bytes


class Schedules:
    """The programs of one rank of a group.

    Args:
        cluster: the links, by which forests are chosen; None: all reach each other equally well.
        agreement: to wait for rank 0 no longer than the group holds.
        say: how to tell others.
        encode: translates programs for the interpreter, given the size of an element.
    """

    def __init__(
        self,
        rank: int,
        world: int,
        cluster: Cluster | None,
        agreement: Agreement,
        say: Say,
        encode: Callable[[Program, int], Encoded],
    ) -> None:
        self.rank = rank
        self.told_by_rank_0 = cluster is not None and world > 1
        self._planner: Planner = planned(cluster) if cluster else direct(names(world))
        self._smallest = NETWORK_CHUNK if cluster else MEMORY_CHUNK
        self._lead = LEAD if cluster else 0
        self._agreement, self._say, self._encode = agreement, say, encode
        self._forests: dict[tuple[Operation, int, int], Forest] = {}
        self._programs: OrderedDict[tuple[Operation, int, int, int, Wire], Scheduled] = OrderedDict()
        self._told: dict[str, Any] = {}

    def program(
        self, operation: Operation, numel: int, itemsize: int, root: int, timeout: float, wire: Wire = "full"
    ) -> Scheduled:
        """The program for `numel` elements of data in all.

        Raises:
            GroupError: rank 0 does not say what it has planned.
        """
        key = (operation, numel, itemsize, root, wire)
        if key in self._programs:
            self._programs.move_to_end(key)
            return self._programs[key]
        forest = self._forest(operation, numel * itemsize, root, timeout)
        chunks = count_chunks(forest, numel * itemsize, self._smallest)
        ahead = count_ahead(forest, numel * itemsize, chunks, self._lead)
        in_place = operation in ("all_reduce", "broadcast")
        lossy = wire != "full"
        program = compile_forest(forest, self.rank, numel, chunks=chunks, in_place=in_place, lossy=lossy, ahead=ahead)
        if lossy:
            program = compressed(program, wire)
        digest = hashlib.sha256(f"{forest_to_json(forest)} {chunks} {ahead} {wire}".encode()).digest()
        self._programs[key] = Scheduled(self._encode(program, itemsize), digest)
        if len(self._programs) > _REMEMBERED:
            self._programs.popitem(last=False)
        return self._programs[key]

    def hear(self, frame: dict[str, Any]) -> None:
        """Rank 0 says what it has planned; on the control thread."""
        with self._agreement.changed:
            self._told[str(frame["key"])] = frame["forest"]
            self._agreement.changed.notify_all()

    def _forest(self, operation: Operation, size: int, root: int, timeout: float) -> Forest:
        key = (operation, size_class(size), root)
        if key not in self._forests:
            if self.told_by_rank_0 and self.rank:
                forest = forest_from_json(self._wait(str(list(key)), timeout))
            else:
                forest = self._planner(operation, 1 << key[1], root)
            if self.told_by_rank_0 and not self.rank:
                self._say(None, {"say": "plan", "key": list(key), "forest": forest_to_json(forest)})
            self._forests[key] = forest
        return self._forests[key]

    def _wait(self, key: str, timeout: float) -> Any:
        deadline = time.monotonic() + timeout
        agreement = self._agreement
        with agreement.changed:
            came = agreement.changed.wait_for(
                lambda: key in self._told or agreement.broken is not None, deadline - time.monotonic()
            )
            if key in self._told:
                return self._told[key]
        agreement.check()
        assert not came
        raise WaitedTooLongError(f"rank {self.rank} waited {timeout:.0f} s for rank 0's plan for {agreement.doing}")
