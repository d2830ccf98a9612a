"""Networks without forwarders: every pair of links through a switch becomes a direct link, and nothing is lost.

Problem: Edmonds' theorem packs trees over nodes that can copy; a switch can only pass on.

Idea: take an amount off (u, switch) and (switch, t), add it to (u, t), and remember the path. If the switch has as
much in as out, there always is such a pair that leaves every rank reachable from the roots with all the data (edge
splitting). How much of a pair may be split is M - (the greatest lack of any max-flow after splitting M), as each cut
falls by the whole amount or not at all. A cut that has become tight stays tight, and forbids later pairs at no cost.

Cost: at most n max-flows for a pair that no known tight cut forbids, and few such pairs.

Source: Bang-Jensen, Frank, Jackson, "Preserving and increasing local edge-connectivity in mixed graphs", 1995; its use
for switches is ForestColl's (arXiv 2402.06787).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from manyhands.collective.packing.flow import Flows
from manyhands.collective.packing.network import Arc

Path = tuple[int, ...]


class Routes:
    """The physical paths behind each direct link, with their capacities."""

    def __init__(self, capacity: Mapping[Arc, int]) -> None:
        self.paths: dict[Arc, dict[Path, int]] = {arc: {arc: amount} for arc, amount in capacity.items() if amount > 0}

    def capacity(self) -> dict[Arc, int]:
        return {arc: total for arc, paths in self.paths.items() if (total := sum(paths.values())) > 0}

    def take(self, arc: Arc, amount: int) -> list[tuple[Path, int]]:
        """Remove so much of a link: from a path that just fits or the widest ones."""
        paths = self.paths[arc]
        taken: list[tuple[Path, int]] = []
        while amount > 0:
            fits = [path for path, width in paths.items() if width >= amount]
            path = min(fits, key=paths.__getitem__) if fits else max(paths, key=paths.__getitem__)
            part = min(amount, paths[path])
            taken.append((path, part))
            amount -= part
            paths[path] -= part
            if not paths[path]:
                del paths[path]
        return taken

    def join(self, first: Arc, second: Arc, amount: int) -> None:
        """Move so much of two links to the direct one over both."""
        left, right = self.take(first, amount), self.take(second, amount)
        if first[0] == second[1]:
            return  # there and back: of no use
        direct = self.paths.setdefault((first[0], second[1]), {})
        while left:
            (begin, much), (end, more) = left.pop(), right.pop()
            part = min(much, more)
            path = _simple((*begin, *end[1:]))
            direct[path] = direct.get(path, 0) + part
            if much > part:
                left.append((begin, much - part))
            if more > part:
                right.append((end, more - part))


def split_off(
    size: int, roots: Mapping[int, int], capacity: Mapping[Arc, int], ranks: int, forwarders: Iterable[int]
) -> Routes:
    """Replace all links of the forwarders (which have as much in as out) by direct ones between ranks."""
    splitter = _Splitter(size, roots, capacity, ranks)
    for node in sorted(forwarders, key=lambda node: len(splitter.around(node))):
        splitter.remove(node)
    return splitter.routes


class _Splitter:
    def __init__(self, size: int, roots: Mapping[int, int], capacity: Mapping[Arc, int], ranks: int) -> None:
        self.size = size
        self.ranks = ranks
        self.total = sum(roots.values())
        self.sources = {(size, root): amount for root, amount in roots.items()}
        self.capacity = {arc: amount for arc, amount in capacity.items() if amount > 0}
        self.routes = Routes(self.capacity)
        self.tight: list[frozenset[int]] = []

    def around(self, node: int) -> list[Arc]:
        return [arc for arc in self.capacity if node in arc]

    def remove(self, node: int) -> None:
        while True:
            into = [u for u, v in self.around(node) if v == node]
            out = [v for u, v in self.around(node) if u == node]
            if not into or not out:
                return
            pairs = [(u, t) for t in out for u in into]
            # A way there and back loses capacity, so it comes last; a direct link that exists is used again.
            pairs.sort(key=lambda pair: (pair[0] == pair[1], pair not in self.capacity))
            if not sum(self.split(u, node, t) for u, t in pairs):
                raise ArithmeticError("a switch could not be split off; its links in and out are out of balance")

    def split(self, u: int, node: int, t: int) -> int:
        """Split off as much as possible of the links u -> node -> t. Returns how much; 0: the pair is forbidden."""
        most = min(self.capacity.get((u, node), 0), self.capacity.get((node, t), 0))
        if not most or any((node in cut) != (u in cut) and (u in cut) == (t in cut) for cut in self.tight):
            return 0
        self._move(u, node, t, most)
        lack = self._lack(most)
        if lack:
            self._move(u, node, t, -lack)
        if most > lack:
            self.routes.join((u, node), (node, t), most - lack)
        return most - lack

    def _move(self, u: int, node: int, t: int, amount: int) -> None:
        for arc, change in (((u, node), -amount), ((node, t), -amount), ((u, t), amount)):
            if arc[0] == arc[1]:
                continue
            left = self.capacity.get(arc, 0) + change
            if left:
                self.capacity[arc] = left
            else:
                self.capacity.pop(arc, None)

    def _lack(self, most: int) -> int:
        """How much the worst rank lacks of the total, `most` or more counting as `most`."""
        flows = Flows(self.size + 1, {**self.capacity, **self.sources})
        worst, hardest = 0, 0
        for rank in range(self.ranks):
            lack = self.total - flows.value(self.size, rank)
            if lack > worst:
                worst, hardest = lack, rank
                if worst >= most:
                    break
        if worst:  # giving back exactly the worst lack leaves its cut tight
            self.tight.append(flows.cut(self.size, hardest)[1])
        return min(worst, most)


def _simple(path: Path) -> Path:
    """The path without the detours that come back to where they began."""
    shorter: list[int] = []
    for node in path:
        if node in shorter:
            del shorter[shorter.index(node) :]
        shorter.append(node)
    return tuple(shorter)
