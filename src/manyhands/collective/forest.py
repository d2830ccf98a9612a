"""A collective is a forest: shares of the data, each with a root, a tree to add it up and a tree to hand it out.

A ring is a forest of paths, a parameter server a forest of stars, tree all-reduce a packing of spanning trees, a
helper host one more root. An algorithm is a function from a cluster to a forest; everything else (the verifier,
the cost model, the interpreter) knows forests only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, Literal, NamedTuple

Operation = Literal["all_reduce", "reduce_scatter", "all_gather", "broadcast", "reduce"]


class Edge(NamedTuple):
    """One hop of a tree, from a node that holds or adds data to another."""

    source: str
    target: str
    via: tuple[str, ...] = ()
    """The nodes that it passes through unchanged (switches, or others that only forward), in order."""
    rail: str = ""
    """The rail of the first link, where there are parallel ones."""


def rail_of(edge: Edge) -> str:
    """What tells parallel ways apart: the rail, or the first switch."""
    return edge.rail or (edge.via[0] if edge.via else "")


@dataclass(frozen=True)
class Tree:
    """How one share of the data travels.

    `reduce` leads to the root and `broadcast` away from it. An operation that does not add up has no `reduce`,
    one that does not hand out no `broadcast`.
    """

    share: Fraction
    """The part of all the data that the tree carries."""
    root: str
    reduce: tuple[Edge, ...] = ()
    """Every edge after those that lead into its source. A node adds its own data and then what its children send, in
    the order of these edges."""
    broadcast: tuple[Edge, ...] = ()
    """Every edge after the one that leads into its source."""


@dataclass(frozen=True)
class Forest:
    """A schedule for one collective operation.

    The data is M bytes on every rank. Trees take consecutive ranges of it, in order, of `share` * M bytes each.

    - `all_reduce`: every tree has both parts.
    - `reduce_scatter`: only `reduce`; rank i gets the i-th of n equal parts, so trees come in the order of
      their roots and those of a root have shares that add up to 1/n.
    - `all_gather`: only `broadcast`; likewise, rank i gives the i-th of n parts.
    - `broadcast`, `reduce`: one part only; all trees have the same root.
    """

    algorithm: str
    operation: Operation
    members: tuple[str, ...]
    """The nodes that contribute and receive, by rank. A node of a tree that is not a member is a helper: it adds
    and copies but has no data of its own."""
    trees: tuple[Tree, ...]

    @cached_property
    def rank(self) -> Mapping[str, int]:
        """The rank of each member; helpers follow, in the order of their names."""
        others = {end for tree in self.trees for edge in (*tree.reduce, *tree.broadcast) for end in edge[:2]}
        others |= {tree.root for tree in self.trees}
        names = (*self.members, *sorted(others - set(self.members)))
        return {name: rank for rank, name in enumerate(names)}

    @property
    def helpers(self) -> tuple[str, ...]:
        return tuple(name for name in self.rank if name not in self.members)


def forest_to_json(forest: Forest) -> dict[str, Any]:
    """The forest as JSON values; `forest_from_json` gives it back."""
    return {
        "algorithm": forest.algorithm,
        "operation": forest.operation,
        "members": list(forest.members),
        "trees": [
            {
                "share": str(tree.share),
                "root": tree.root,
                "reduce": [[e.source, e.target, list(e.via), e.rail] for e in tree.reduce],
                "broadcast": [[e.source, e.target, list(e.via), e.rail] for e in tree.broadcast],
            }
            for tree in forest.trees
        ],
    }


def forest_from_json(values: dict[str, Any]) -> Forest:
    """The forest of `forest_to_json`."""

    def edges(rows: list[Any]) -> tuple[Edge, ...]:
        return tuple(Edge(source, target, tuple(via), rail) for source, target, via, rail in rows)

    trees = tuple(
        Tree(Fraction(t["share"]), t["root"], edges(t["reduce"]), edges(t["broadcast"])) for t in values["trees"]
    )
    return Forest(values["algorithm"], values["operation"], tuple(values["members"]), trees)
