"""Maximum flows and minimum cuts in integers: the one question that everything here is asked in.

SciPy answers in about 0.1 ms, but counts in 32 bits (and overflows silently); where the numbers are larger, Dinic's
algorithm in Python does, in milliseconds for the small graphs of clusters that were measured.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

_LARGEST = 2**31 - 1


class Flows:
    """Maximum flows in one graph between any nodes.

    Args:
        size: nodes are 0 ... size - 1.
        capacity: of each arc (source, target); arcs of capacity 0 are none.
    """

    def __init__(self, size: int, capacity: Mapping[tuple[int, int], int]) -> None:
        self.size = size
        self._capacity = {arc: amount for arc, amount in capacity.items() if amount > 0}
        self._is_small = sum(self._capacity.values()) < _LARGEST
        if self._is_small:
            arcs = np.array(list(self._capacity), dtype=np.int32).reshape(-1, 2)
            amounts = np.fromiter(self._capacity.values(), dtype=np.int32, count=len(self._capacity))
            self._matrix = csr_array((amounts, (arcs[:, 0], arcs[:, 1])), shape=(size, size))

    def value(self, source: int, target: int) -> int:
        """The maximum flow."""
        if self._is_small:
            return int(maximum_flow(self._matrix, source, target).flow_value)
        return _dinic(self.size, self._capacity, source, target)[0]

    def cut(self, source: int, target: int) -> tuple[int, frozenset[int]]:
        """The maximum flow, and the target's side of the minimum cut (the largest one)."""
        if not self._is_small:
            value, levels = _dinic(self.size, self._capacity, source, target)
            return value, frozenset(node for node in range(self.size) if levels[node] < 0)
        result = maximum_flow(self._matrix, source, target)
        residual = csr_array(self._matrix - result.flow)
        residual.eliminate_zeros()
        reached = breadth_first_order(residual, source, return_predecessors=False)
        return int(result.flow_value), frozenset(range(self.size)) - frozenset(reached.tolist())


def _dinic(size: int, capacity: Mapping[tuple[int, int], int], source: int, target: int) -> tuple[int, list[int]]:
    """The maximum flow and the breadth-first levels of what the source still reaches (-1: cut off)."""
    residual: list[dict[int, int]] = [{} for _ in range(size)]
    for (u, v), amount in capacity.items():
        residual[u][v] = residual[u].get(v, 0) + amount
        residual[v].setdefault(u, 0)
    flow = 0
    while True:
        levels = _levels(residual, source)
        if levels[target] < 0:
            return flow, levels
        while pushed := _augment(residual, levels, source, target):
            flow += pushed


def _levels(residual: list[dict[int, int]], source: int) -> list[int]:
    levels = [-1] * len(residual)
    levels[source] = 0
    queue = deque([source])
    while queue:
        u = queue.popleft()
        for v, left in residual[u].items():
            if left > 0 and levels[v] < 0:
                levels[v] = levels[u] + 1
                queue.append(v)
    return levels


def _augment(residual: list[dict[int, int]], levels: list[int], source: int, target: int) -> int:
    """Push one path's worth along rising levels; dead ends are struck out of `levels`' order."""
    path = [source]
    while path[-1] != target:
        u = path[-1]
        step = next((v for v, left in residual[u].items() if left > 0 and levels[v] == levels[u] + 1), None)
        if step is not None:
            path.append(step)
            continue
        if u == source:
            return 0
        levels[u] = len(residual) + 1
        path.pop()
    hops = list(pairwise(path))
    amount = min(residual[u][v] for u, v in hops)
    for u, v in hops:
        residual[u][v] -= amount
        residual[v][u] += amount
    return amount
