"""MSCCL XML as it stands in the file: thread blocks and their steps, checked for what the format asks.

What a step touches is in `Step.reads` and `Step.writes`; the other offsets of the file name places at the peer.
Source: microsoft/msccl, the parser; microsoft/msccl-tools, which writes such files.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple
from xml.etree import ElementTree

from manyhands.errors import UserError

RECEIVES = {"r", "rcs", "rrc", "rrs", "rrcs"}
SENDS = {"s", "rcs", "rrs", "rrcs"}
_KINDS = RECEIVES | SENDS | {"cpy", "re", "nop"}
_READS = {"s", "rrc", "rrs", "rrcs", "cpy", "re"}
_WRITES = {"r", "rcs", "rrc", "rrcs", "cpy", "re"}
_MOST_BYTES = 64 << 20


class Step(NamedTuple):
    """One step of a thread block."""

    kind: str
    reads: tuple[str, int] | None
    """Buffer (i, o or s) and first chunk that the step reads."""
    writes: tuple[str, int] | None
    count: int
    """Chunks that the step is about."""
    after: tuple[int, int] | None
    """The block and the step of it that must be done before."""
    where: str
    """Where the step stands, for messages."""


@dataclass
class Block:
    """A thread block: it sends to one peer at most and receives from one."""

    send: int
    recv: int
    channel: int
    steps: list[Step]


@dataclass
class Gpu:
    """A rank."""

    blocks: dict[int, Block]
    """The rank's thread blocks, by their ids."""
    chunks: dict[str, int]
    """Chunks of each buffer: what is declared, or what the steps reach."""


def parse(text: str, name: str) -> ElementTree.Element:
    """The document, if it is one of MSCCL's and harmless: no document type, so no entities that expand or fetch."""
    if len(text) > _MOST_BYTES:
        raise UserError(f"{name} is larger than {_MOST_BYTES >> 20} MB; no algorithm is.")
    if "<!DOCTYPE" in text.upper() or "<!ENTITY" in text.upper():
        raise UserError(
            f"{name} declares a document type or entities, which no algorithm needs. Remove the declaration."
        )
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise UserError(f"{name} is not XML: {error}.") from None
    if root.tag != "algo":
        raise UserError(f"{name}: the outermost element is <{root.tag}>, not <algo>.")
    return root


def read_gpus(root: ElementTree.Element, name: str) -> list[Gpu]:
    """All ranks, in order."""
    found: dict[int, Gpu] = {}
    for element in root.iter("gpu"):
        rank = _number(element, "id", name)
        blocks: dict[int, Block] = {}
        for tb in element.iter("tb"):
            at = f"{name}: gpu {rank}, block {tb.get('id')}"
            number = _number(tb, "id", at)
            steps = [_step(step, f"{at}, step {index}") for index, step in enumerate(tb.iter("step"))]
            if number in blocks:
                raise UserError(f"{at} occurs twice.")
            blocks[number] = Block(_number(tb, "send", at), _number(tb, "recv", at), _number(tb, "chan", at), steps)
        if rank in found:
            raise UserError(f"{name}: gpu {rank} occurs twice.")
        chunks = {letter: _number(element, f"{letter}_chunks", f"{name}: gpu {rank}") for letter in "ios"}
        found[rank] = Gpu(blocks, _used(blocks, chunks))
    count = _number(root, "ngpus", name)
    if sorted(found) != list(range(count)) or not found:
        raise UserError(f"{name}: ngpus is {count}, but it describes gpus {sorted(found)}.")
    gpus = [found[rank] for rank in range(count)]
    for rank, gpu in enumerate(gpus):
        _check_blocks(gpu, len(gpus), f"{name}: gpu {rank}")
    return gpus


def _step(element: ElementTree.Element, where: str) -> Step:
    kind = element.get("type", "")
    if kind not in _KINDS:
        raise UserError(f"{where}: its type is {kind!r}, not one of {', '.join(sorted(_KINDS))}.")
    places = []
    for end in ("src", "dst"):
        letter, at = element.get(f"{end}buf", "i"), _number(element, f"{end}off", where)
        if letter not in "ios" or len(letter) != 1:
            raise UserError(f"{where}: there is no buffer {letter!r}.")
        places.append((letter, at))
    depends = (_number(element, "depid", where), _number(element, "deps", where))
    count = _number(element, "cnt", where) if kind != "nop" else 0
    if count < 1 and kind != "nop":
        raise UserError(f"{where}: its count is {count}.")
    reads, writes = (places[0] if kind in _READS else None), (places[1] if kind in _WRITES else None)
    return Step(kind, reads, writes, count, depends if min(depends) >= 0 else None, where)


def _number(element: ElementTree.Element, name: str, where: str) -> int:
    try:
        return int(element.get(name, ""))
    except ValueError:
        raise UserError(f"{where}: `{name}` must be a whole number, not {element.get(name)!r}.") from None


def _used(blocks: dict[int, Block], chunks: dict[str, int]) -> dict[str, int]:
    """The sizes of the buffers: what is declared, or what the steps reach."""
    for block in blocks.values():
        for step in block.steps:
            for letter, start in filter(None, (step.reads, step.writes)):
                if start < 0:
                    raise UserError(f"{step.where}: offset {start} lies before the buffer.")
                chunks[letter] = max(chunks[letter], start + step.count)
    return chunks


def _check_blocks(gpu: Gpu, count: int, where: str) -> None:
    """Every connection has one block at either end."""
    ends: Counter[tuple[str, int, int]] = Counter()
    for number, block in gpu.blocks.items():
        kinds = {step.kind for step in block.steps}
        for way, peer, needed in (("send", block.send, kinds & SENDS), ("recv", block.recv, kinds & RECEIVES)):
            if needed and not 0 <= peer < count:
                raise UserError(f"{where}, block {number}: has steps that {way}, but its peer is {peer}.")
            if needed:
                ends[way, peer, block.channel] += 1
                if ends[way, peer, block.channel] > 1:
                    raise UserError(
                        f"{where}, block {number}: another block has {way}={peer} on channel {block.channel}."
                    )
        for step in block.steps:
            if step.after and (
                step.after[0] not in gpu.blocks or step.after[1] >= len(gpu.blocks[step.after[0]].steps)
            ):
                raise UserError(
                    f"{step.where}: depends on step {step.after[1]} of block {step.after[0]}, which is not there."
                )
