"""Halving and doubling: as few steps as a tree, as few bytes as a ring.

Problem: reduce-scatter and all-gather in log2 n steps.
Idea: for n a power of two, neighbours (ranks that differ in the lowest bit) swap halves of the data and add; then
quarters between those that differ in the next bit, and so on; the gathering goes the same way back. The share of root i
thus travels along a binomial tree: rank j hands it to j with the lowest bit that differs from i set right. Beginning
with the lowest bit, most bytes stay between neighbours, and every partial sum is a node of the aligned tree of law 1.
For other n the distance is halved instead: j hands it to j - d, d the highest bit of (j - i) mod n, which keeps both
ceil(log2 n) steps and (n-1)/n M bytes.
Cost: 2 ceil(log2 n) latency + 2 (n-1)/n M / b where any two ranks have a link of their own.
Source: Thakur, Rabenseifner, Gropp, "Optimization of collective communication operations in MPICH", IJHPCA 19 (2005);
other n: Träff, "Optimal, non-pipelined reduce-scatter and allreduce algorithms" (2024).
"""

from __future__ import annotations

from fractions import Fraction

from manyhands.cluster import Cluster
from manyhands.collective.algorithms.routes import Routes, grow, members_of, parts, pick_root
from manyhands.collective.forest import Forest, Operation


def halving_doubling(cluster: Cluster, operation: Operation = "all_reduce", *, root: str | None = None) -> Forest:
    """A binomial tree per rank, or for broadcast and reduce the one of the root.

    Raises:
        UserError: two ranks have no path between them.
    """
    routes, members = Routes(cluster), members_of(cluster)
    roots = [pick_root(cluster, root)] if operation in ("broadcast", "reduce") else list(members)
    adds, hands_out = parts(operation)
    trees = []
    for name in roots:
        up = {members[child]: members[parent] for child, parent in binomial(members.index(name), len(members)).items()}
        share = Fraction(1, len(roots))
        trees.append(grow(routes, share, name, up=up if adds else None, down=up if hands_out else None))
    return Forest("halving_doubling", operation, members, tuple(trees))


def binomial(root: int, count: int) -> dict[int, int]:
    """The parent of every rank but the root, in the order of the rounds in which they hand on their sums."""
    if count & (count - 1) == 0:
        steps = sorted(range(1, count), key=lambda step: (step & -step, step))
        return {root ^ step: root ^ step ^ (step & -step) for step in steps}
    steps = range(count - 1, 0, -1)
    return {(root + step) % count: (root + step - (1 << step.bit_length() - 1)) % count for step in steps}
