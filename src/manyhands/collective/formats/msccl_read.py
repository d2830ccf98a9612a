"""Reads MSCCL XML into each rank's program.

Problem: a rank of MSCCL is many thread blocks that run at the same time and wait for each other; a program is one list.
Idea: run all blocks of all ranks once, without data: a step can go when the step it depends on is done and, if it
receives, when the sender's step on that connection has gone. The order found this way, rank by rank, is the program. It
cannot get stuck, because it has just been gone through, and each connection (its channel is the rail) keeps its order.
Buffers: 0 is the input, and the output too if the algorithm works in place; then output and scratch follow. Steps mean
what MSCCL's interpreter does: `rrc` stores source + received at the destination, `rrs` sends it without storing, `re`
adds the source to the destination, `rcs` and `rrcs` also send on what they stored, `nop` only waits.
Source: Cowan et al., "MSCCLang", ASPLOS 2023; microsoft/msccl, the interpreter's device code.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

from manyhands.collective.forest import Operation
from manyhands.collective.formats.msccl import COLLECTIVES
from manyhands.collective.formats.msccl_parse import RECEIVES, SENDS, Block, Gpu, Step, parse, read_gpus
from manyhands.collective.program import Instruction, Op, Place, Program
from manyhands.collective.verify_programs import InvalidProgram, verify_programs
from manyhands.errors import UserError


@dataclass(frozen=True, kw_only=True)
class MscclAlgorithm:
    """An algorithm as the file gives it: its programs count chunks."""

    name: str
    operation: Operation
    chunks: int
    """Chunks of the whole data."""
    programs: tuple[Program, ...]

    def scaled(self, elements: int) -> tuple[Program, ...]:
        """The programs for data of so many elements.

        Raises:
            UserError: they cannot be cut into equal chunks.
        """
        size, rest = divmod(elements, self.chunks)
        if rest:
            raise UserError(
                f"{self.name} cuts its data into {self.chunks} equal chunks; {elements} elements cannot be."
            )
        return tuple(_scaled(program, size) for program in self.programs)

    def verify(self) -> None:
        """Check that the programs compute what the algorithm says.

        Raises:
            InvalidProgram: they do not; for broadcast and reduce, with no rank as the root.
        """
        rooted = self.operation in ("broadcast", "reduce")
        for root in range(len(self.programs)):
            try:
                return verify_programs(self.programs, self.operation, root=root)
            except InvalidProgram:
                if not rooted or root == len(self.programs) - 1:
                    raise


def read_msccl(text: str, name: str = "the file") -> MscclAlgorithm:
    """Parse an MSCCL algorithm. What it computes is not checked here: see `verify_programs`.

    Args:
        name: where the text is from, for messages.

    Raises:
        UserError: it is no MSCCL algorithm, declares a document type, or its blocks wait for each other for ever.
    """
    root = parse(text, name)
    collective = root.get("coll", "")
    operations = {theirs: ours for ours, theirs in COLLECTIVES.items()}
    if collective not in operations:
        raise UserError(f"{name}: collective {collective!r} is not one of {', '.join(operations)}.")
    operation: Operation = operations[collective]  # pyrefly: ignore[bad-assignment]
    gpus = read_gpus(root, name)
    buffers = {"all_gather": "o", "reduce_scatter": "i"}.get(operation, "io")
    whole = max(gpu.chunks[letter] for gpu in gpus for letter in buffers)
    if operation == "all_gather":
        whole = max(whole, len(gpus) * max(gpu.chunks["i"] for gpu in gpus))
    if whole < 1:
        raise UserError(f"{name}: its buffers have no chunks.")
    layout = _Layout(operation, len(gpus), whole, in_place=root.get("inplace", "0") == "1")
    programs = _merge(gpus, layout, name)
    return MscclAlgorithm(name=root.get("name", "msccl"), operation=operation, chunks=whole, programs=programs)


class _Layout(NamedTuple):
    """Where the file's buffers lie in a program's."""

    operation: Operation
    ranks: int
    whole: int
    in_place: bool

    def place(self, rank: int, letter: str, start: int) -> Place:
        if letter == "s":
            return Place(1 if self.in_place else 2, start)
        if not self.in_place:
            return Place(0 if letter == "i" else 1, start)
        # In place the smaller buffer is this rank's part of the larger one.
        inner = {"all_gather": "i", "reduce_scatter": "o"}.get(self.operation)
        return Place(0, start + (rank * (self.whole // self.ranks) if letter == inner else 0))

    def sizes(self, gpu: Gpu) -> tuple[int, ...]:
        part = self.whole // self.ranks
        longest = max((step.count for block in gpu.blocks.values() for step in block.steps), default=0)
        scratch = (gpu.chunks["s"], longest)
        if self.in_place:
            return (self.whole, *scratch)
        return (
            part if self.operation == "all_gather" else self.whole,
            part if self.operation == "reduce_scatter" else self.whole,
            *scratch,
        )


def _merge(gpus: list[Gpu], layout: _Layout, name: str) -> tuple[Program, ...]:
    """All blocks in one possible order; what each rank did is its program."""
    sent: Counter[tuple[int, int, int]] = Counter()
    done = [dict.fromkeys(gpu.blocks, 0) for gpu in gpus]
    programs: list[list[Instruction]] = [[] for _ in gpus]
    blocks = [(rank, number, block) for rank, gpu in enumerate(gpus) for number, block in gpu.blocks.items()]
    while blocks:
        moved = False
        for rank, number, block in blocks:
            while done[rank][number] < len(block.steps):
                step = block.steps[done[rank][number]]
                if step.after and done[rank][step.after[0]] <= step.after[1]:
                    break
                if step.kind in RECEIVES and not sent[block.recv, rank, block.channel]:
                    break
                programs[rank] += _instructions(rank, block, step, layout)
                sent[block.recv, rank, block.channel] -= step.kind in RECEIVES
                sent[rank, block.send, block.channel] += step.kind in SENDS
                done[rank][number] += 1
                moved = True
        blocks = [(rank, number, block) for rank, number, block in blocks if done[rank][number] < len(block.steps)]
        if blocks and not moved:
            stuck = [block.steps[done[rank][number]].where.removeprefix(f"{name}: ") for rank, number, block in blocks]
            more = f" and {len(stuck) - 4} more" if len(stuck) > 4 else ""
            raise UserError(f"{name}: deadlock, these wait for ever: {'; '.join(stuck[:4])}{more}.")
    output = 0 if layout.in_place else 1
    return tuple(
        Program(rank, layout.sizes(gpu), 1 + output, output, tuple(steps))
        for rank, (gpu, steps) in enumerate(zip(gpus, programs, strict=True))
    )


def _instructions(rank: int, block: Block, step: Step, layout: _Layout) -> list[Instruction]:
    kind, count, rail = step.kind, step.count, str(block.channel)
    source = layout.place(rank, *step.reads) if step.reads else None
    target = layout.place(rank, *step.writes) if step.writes else None
    if kind == "cpy":
        return [Instruction(Op.COPY, count, target=target, left=source)]
    if kind == "re":
        return [Instruction(Op.ADD, count, target=target, left=target, right=source)]
    steps = []
    if kind == "rrs":  # stored nowhere that the file names
        target = Place(2 if layout.in_place else 3, 0)
    if kind in ("r", "rcs"):
        steps.append(Instruction(Op.RECEIVE, count, target=target, peer=block.recv, rail=rail))
    elif kind in RECEIVES:
        steps.append(Instruction(Op.RECEIVE_ADD, count, target=target, left=source, peer=block.recv, rail=rail))
    if kind in SENDS:
        steps.append(Instruction(Op.SEND, count, left=source if kind == "s" else target, peer=block.send, rail=rail))
    return steps


def _scaled(program: Program, size: int) -> Program:
    def scale(place: Place | None) -> Place | None:
        return None if place is None else Place(place.buffer, place.start * size)

    steps = tuple(
        step._replace(
            count=step.count * size, target=scale(step.target), left=scale(step.left), right=scale(step.right)
        )
        for step in program.instructions
    )
    sizes = tuple(chunks * size for chunks in program.sizes)
    return Program(program.rank, sizes, program.inputs, program.output, steps)
