"""What `manyhands collective plan` and `draw` have in common: which machines, which operation, which algorithm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, get_args

from manyhands.collective.forest import Forest, Operation
from manyhands.errors import UsageError, UserError
from manyhands.plan import Option

if TYPE_CHECKING:
    from manyhands.cluster import Cluster
    from manyhands.collective.packing import Certificate

_MOST_BOUND = 64
"""Ranks up to which the bound is worked out for algorithms that do not come with one: a few seconds."""


@dataclass(frozen=True)
class Where:
    """Options that say which machines, links and operation."""

    cluster: Annotated[str, Option("CLUSTER")]
    """A preset (see `manyhands cluster presets`) or a file: TOML, NCCL_TOPO_DUMP_FILE's XML, `nvidia-smi topo -m`."""
    devices: Annotated[str, Option("DEVICE,...", "all")] = ""
    """Only these, by name or number: 0,1,4."""
    links: Annotated[str, Option("KIND,...", "nvlink on dgx1v, else all")] = ""
    """Only links of these kinds: nvlink,pcie."""
    operation: Annotated[Operation, Option("|".join(get_args(Operation)))] = "all_reduce"
    """What is to be done."""
    root: Annotated[str, Option("DEVICE", "the first")] = ""
    """Where a broadcast or reduce has its root, by name or number."""

    def select(self) -> Cluster:
        """The part of the cluster that is meant.

        Raises:
            UsageError: it is not there.
        """
        from manyhands.cluster import read_cluster

        try:
            whole = read_cluster(self.cluster)
        except UserError as error:
            raise UsageError(str(error)) from None
        kinds = _listed(self.links) or (["nvlink"] if whole.name == "dgx1v" else None)
        known = sorted({link.kind for link in whole.links if link.kind})
        for kind in kinds or []:
            if kind not in known:
                raise UsageError(f"--links {kind}: {whole.name} has links of kind {', '.join(known) or '(none)'}.")
        names = [_rank(whole, text, "--devices") for text in _listed(self.devices)] or list(whole.ranks)
        if len(set(names)) < len(names):
            raise UsageError("--devices names a device twice.")
        return whole.subset(names, kinds=kinds)

    def rooted(self, cluster: Cluster) -> str | None:
        """The root in this part of the cluster, where the operation has one."""
        if self.operation not in ("broadcast", "reduce"):
            if self.root:
                raise UsageError(f"--root: {self.operation} has no root.")
            return None
        return _rank(cluster, self.root, "--root") if self.root else cluster.ranks[0]


@dataclass(frozen=True)
class How:
    """Options that say which algorithm, and what binds it."""

    algorithm: Annotated[str, Option("ALGORITHM")] = "packed"
    """What plans it: packed, ring, bidirectional_ring, tree, star, hierarchical, halving_doubling, helper_hosts; auto:
    the fastest."""
    canonical: bool = False
    """Only sums in the order of law 1, so that the result has the same bits on any machines."""


@dataclass(frozen=True)
class Planned:
    """A forest, and what is known of its bound."""

    forest: Forest
    certificate: Certificate | None
    """The certificate of the packing, even if another algorithm was asked for."""
    reason: str = ""
    """Why this algorithm, if it was left open."""


def make_plan(
    cluster: Cluster,
    operation: Operation,
    root: str | None,
    how: How,
    *,
    max_trees: int | None,
    size: int,
) -> Planned:
    """Build the forest that was asked for; `auto` takes the fastest for `size` bytes.

    Raises:
        UserError: there is no such algorithm, or it has no schedule here.
    """
    from manyhands.collective.choose import PACKED, build, choose
    from manyhands.collective.packing import packed

    name, canonical = how.algorithm, how.canonical
    if name == PACKED:
        plan = packed(cluster, operation, root=root, max_trees=max_trees, canonical=canonical)
        return Planned(plan.forest, plan.certificate)
    if name == "auto":
        choice = choose(cluster, size, operation, root=root, canonical=canonical)
        forest, reason = choice.forest, choice.reason
    else:
        forest, reason = build(name, cluster, operation, root=root, canonical=canonical), ""
    certificate = None
    if 1 < len(cluster.ranks) <= _MOST_BOUND:
        certificate = packed(cluster, operation, root=root, canonical=canonical).certificate
    return Planned(forest, certificate, reason)


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _rank(cluster: Cluster, text: str, flag: str) -> str:
    if text in cluster.ranks:
        return text
    if text.isdigit() and int(text) < len(cluster.ranks):
        return cluster.ranks[int(text)]
    raise UsageError(f"{flag} {text}: {cluster.name} has {', '.join(cluster.ranks)}, numbered from 0.")


def write_text(path: object, text: str | bytes) -> None:
    """Write a file of the user's.

    Raises:
        UserError: it cannot be written.
    """
    from pathlib import Path

    target = Path(str(path))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(text.encode() if isinstance(text, str) else text)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}.") from None
