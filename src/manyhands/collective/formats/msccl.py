"""Writes a forest as MSCCL XML, which MSCCL, RCCL and converters for simulators read.

Problem: MSCCL knows equal chunks, and thread blocks that each send to one peer and receive from one, step by step.
Idea: cut the data into the fewest equal chunks in which every share is whole. Every directed connection gets a thread
block at either end, `s` at one and `r` or `rrc` (receive, reduce, copy) at the other; both go through the transfers in
the same order (`transfers`). A step that needs another block's step to be done first names it in `depid`/`deps`. All is
in place: all-reduce and reduce-scatter work in the input buffer, all-gather in the output buffer.
Limits, from MSCCL's headers: 256 steps a block (further trees go to further channels), counts up to 72 chunks, 32
channels. Source: Cowan et al., "MSCCLang: Microsoft Collective Communication Language", ASPLOS 2023.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import NamedTuple
from xml.etree import ElementTree

from manyhands.collective.forest import Forest
from manyhands.collective.formats.transfers import Transfer, transfers
from manyhands.errors import UserError

COLLECTIVES = {
    "all_reduce": "allreduce",
    "reduce_scatter": "reducescatter",
    "all_gather": "allgather",
    "broadcast": "broadcast",
    "reduce": "reduce",
}
MOST_STEPS = 256
MOST_COUNT = 72
MOST_CHANNELS = 32
MOST_CHUNKS = 1024
"""Chunks above which shares are rounded: every chunk has a position in every buffer."""


class _Step(NamedTuple):
    kind: str
    start: int
    count: int
    after: tuple[int, int] | None
    """The block and the step of it that must be done before this step."""


class _Block:
    """One thread block: one end of one connection on one channel."""

    def __init__(self, send: int, recv: int, channel: int) -> None:
        self.send, self.recv, self.channel = send, recv, channel
        self.steps: list[_Step] = []


def to_msccl(forest: Forest, *, channels: int = 1, most_chunks: int = MOST_CHUNKS) -> str:
    """The forest as an MSCCL algorithm.

    Args:
        channels: trees are dealt to so many channels, which work at the same time; more are taken where blocks would
            get too long.
        most_chunks: where shares need more equal chunks than this, they are rounded to 1/this (of a rank's part, for
            reduce-scatter and all-gather).

    Raises:
        UserError: the forest has helpers, which MSCCL has no place for, or is too large.
    """
    if forest.helpers:
        raise UserError(f"MSCCL has no helpers, but {', '.join(forest.helpers)} take part. Plan without helper hosts.")
    counts = chunk_counts(forest, most_chunks)
    order = transfers(forest)
    while True:
        gpus = _blocks(forest, order, counts, channels)
        longest = max((len(block.steps) for blocks in gpus for block in blocks), default=0)
        if longest <= MOST_STEPS or channels >= min(MOST_CHANNELS, len(forest.trees)):
            break
        channels += 1
    if longest > MOST_STEPS:
        raise UserError(
            f"MSCCL allows {MOST_STEPS} steps per thread block, but {forest.algorithm} needs {longest} on {channels} "
            "channels. Plan with fewer trees."
        )
    return _xml(forest, gpus, sum(counts), channels)


def chunk_counts(forest: Forest, most: int = MOST_CHUNKS) -> list[int]:
    """How many of the equal chunks each tree takes: exact if at most `most` chunks do, else by largest remainders."""
    members = len(forest.members)
    scatters = forest.operation in ("reduce_scatter", "all_gather")
    whole = math.lcm(members if scatters else 1, *(tree.share.denominator for tree in forest.trees))
    if whole <= most:
        return [int(tree.share * whole) for tree in forest.trees]
    if not scatters:
        return _rounded([tree.share for tree in forest.trees], most)
    counts: list[int] = []
    for member in forest.members:
        counts += _rounded(
            [tree.share * members for tree in forest.trees if tree.root == member], max(1, most // members)
        )
    return counts


def _rounded(shares: list[Fraction], total: int) -> list[int]:
    """Round shares to whole numbers of this sum, as close as can be; 0 drops a tree."""
    counts = [math.floor(share * total) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda i: counts[i] - shares[i] * total)
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts


def _blocks(forest: Forest, order: list[Transfer], counts: list[int], channels: int) -> list[list[_Block]]:
    """The thread blocks of every rank."""
    gpus: list[dict[tuple[int, int, int], _Block]] = [{} for _ in forest.members]
    index: list[dict[tuple[int, int, int], int]] = [{} for _ in forest.members]
    starts = [sum(counts[:tree]) for tree in range(len(counts))]
    ready: dict[tuple[int, int, int], tuple[int, int]] = {}
    """The last step that wrote each piece: (rank, tree, piece) -> (block, step)."""

    def add(rank: int, send: int, recv: int, transfer: Transfer, kind: str) -> None:
        key = (send, recv, transfer.tree % channels)
        block = gpus[rank].setdefault(key, _Block(*key))
        number = index[rank].setdefault(key, len(index[rank]))
        for piece in range(0, counts[transfer.tree], MOST_COUNT):
            count = min(MOST_COUNT, counts[transfer.tree] - piece)
            slot = (rank, transfer.tree, piece)
            after = ready.get(slot)
            after = None if after is None or after[0] == number else after
            block.steps.append(_Step(kind, starts[transfer.tree] + piece, count, after))
            if kind != "s":
                ready[slot] = (number, len(block.steps) - 1)

    for transfer in order:
        add(transfer.source, transfer.target, -1, transfer, "s")
        add(transfer.target, -1, transfer.source, transfer, "rrc" if transfer.adds else "r")
    return [list(blocks.values()) for blocks in gpus]


def _xml(forest: Forest, gpus: list[list[_Block]], chunks: int, channels: int) -> str:
    gathers = forest.operation == "all_gather"
    buffer = "o" if gathers else "i"
    algo = ElementTree.Element(
        "algo",
        name=forest.algorithm,
        proto="Simple",
        nchannels=str(channels),
        nchunksperloop=str(chunks),
        ngpus=str(len(gpus)),
        coll=COLLECTIVES[forest.operation],
        inplace="1",
        outofplace="0",
        minBytes="0",
        maxBytes="0",
    )
    part = chunks // len(gpus)
    for rank, blocks in enumerate(gpus):
        gpu = ElementTree.SubElement(algo, "gpu", id=str(rank))
        gpu.set("i_chunks", str(part if gathers else chunks))
        gpu.set("o_chunks", str(part if forest.operation == "reduce_scatter" else chunks if gathers else 0))
        gpu.set("s_chunks", "0")
        awaited = {step.after for block in blocks for step in block.steps}
        for number, block in enumerate(blocks):
            tb = ElementTree.SubElement(gpu, "tb", id=str(number), send=str(block.send), recv=str(block.recv))
            tb.set("chan", str(block.channel))
            for at, step in enumerate(block.steps):
                depid, deps = step.after or (-1, -1)
                place = {"srcbuf": buffer, "srcoff": str(step.start), "dstbuf": buffer, "dstoff": str(step.start)}
                ElementTree.SubElement(
                    tb,
                    "step",
                    {"s": str(at), "type": step.kind, **place, "cnt": str(step.count)},
                    depid=str(depid),
                    deps=str(deps),
                    hasdep=str(int((number, at) in awaited)),
                )
    ElementTree.indent(algo, space="  ")
    return ElementTree.tostring(algo, encoding="unicode") + "\n"
