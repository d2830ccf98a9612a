"""Which projections share atoms, and whether their features can be split.

A *region* is a set of projections whose output features share atoms: queries, keys and values of one attention, gate
and up of one MLP. It is split if it has enough atoms, if every member lists them in the same order (`Split`), and if
none of its members reads features that are split already: a projection is split by its rows or its columns.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from manyhands.tensor_parallel.derive.labels import Findings, Projection
from manyhands.tensor_parallel.split import Split, evenly

HEAD_SHARE = 32
"""Fewest features per worker for which a projection that nothing follows (a head) is worth splitting."""


@dataclass
class Region:
    """Projections that can only be split together."""

    names: tuple[str, ...] = ()
    members: dict[str, Split] = field(default_factory=dict)
    """The split of each member's output features."""
    consumers: dict[str, Split] = field(default_factory=dict)
    """Projections that read the members' features, and the split of their input features."""
    atoms: int = 0
    refused: str = ""
    """Why the region is not split, in words."""


def find_regions(findings: Findings, degree: int) -> list[Region]:
    """All regions in the order in which they are computed; each projection is a member of one."""
    regions, rows = [], set()
    for names in _groups(findings):
        members = [findings.projections[name] for name in names]
        region = _region(findings, members, degree)
        if not region.refused and rows & set(names):
            region.refused = "reads features that are split already"
        if not region.refused:
            _find_consumers(findings, region, members, set(names) | rows)
            if not region.consumers and (region.members[names[0]].pieces != (1,) or region.atoms < HEAD_SHARE * degree):
                region.refused = "no projection that could be split by rows reads it, and it is small"
            else:
                rows |= region.consumers.keys()
        regions.append(region)
    return regions


def _groups(findings: Findings) -> list[list[str]]:
    """Projections that share atoms."""
    groups: list[tuple[set[int], list[str]]] = []
    for name, projection in findings.projections.items():
        atoms, names = set(_atoms(findings, projection).tolist()), [name]
        for group in [group for group in groups if group[0] & atoms]:
            groups.remove(group)
            atoms |= group[0]
            names = group[1] + names
        groups.append((atoms, names))
    order = list(findings.projections)
    return sorted((names for _, names in groups), key=lambda names: min(map(order.index, names)))


def _atoms(findings: Findings, projection: Projection) -> np.ndarray:
    return findings.atoms[projection.first_label : projection.first_label + projection.outputs]


def _region(findings: Findings, members: list[Projection], degree: int) -> Region:
    order = _in_order(_atoms(findings, members[0]))
    region = Region(tuple(member.module for member in members), atoms=len(order))
    for member in members:
        split = _as_split(_atoms(findings, member), order, degree)
        used = member.weight in findings.elsewhere or member.bias in findings.elsewhere
        if used:
            region.refused = f"{member.weight} is also used outside of its module"
        elif len(order) < degree:
            what = "all its features are used together" if len(order) == 1 else f"its features form {len(order)} groups"
            region.refused = f"{what}, which {degree} workers cannot share"
        elif split is None:
            region.refused = f"the features of {member.module} that belong together lie in no order that can be shared"
        else:
            region.members[member.module] = split
    return region


def _find_consumers(findings: Findings, region: Region, members: list[Projection], taken: set[str]) -> None:
    order = _in_order(_atoms(findings, members[0]))
    degree = len(next(iter(region.members.values())).counts)
    for projection in findings.projections.values():
        if projection.module in taken or projection.weight in findings.elsewhere:
            continue
        splits = [
            None if not labels.all() else _as_split(findings.atoms[labels], order, degree)
            for labels in projection.input_labels
        ]
        if splits[0] is not None and all(split == splits[0] for split in splits):
            region.consumers[projection.module] = splits[0]


def _in_order(atoms: np.ndarray) -> list[int]:
    """The atoms in the order of their first features."""
    return list(dict.fromkeys(atoms.tolist()))


def _as_split(atoms: np.ndarray, order: list[int], degree: int) -> Split | None:
    """Features as pieces, each of which goes through all atoms in order with equally many features."""
    starts = np.flatnonzero(np.diff(atoms, prepend=-1))
    lengths = np.diff(starts, append=len(atoms))
    if len(starts) % len(order):
        return None
    runs, lengths = atoms[starts].reshape(-1, len(order)), lengths.reshape(-1, len(order))
    if not (runs == np.array(order)).all() or not (lengths == lengths[:, :1]).all():
        return None
    return evenly(len(order), degree, tuple(int(length) for length in lengths[:, 0]))
