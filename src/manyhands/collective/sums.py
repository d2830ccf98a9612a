"""The partial sums of one chunk at one node of a reduce tree, joined as they come. See compile.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from manyhands.collective.forest import Edge, rail_of
from manyhands.collective.program import Instruction, Op, Place
from manyhands.collective.tree import Node


@dataclass
class Stream:
    """One tree as one node sees it."""

    index: int
    start: int
    stop: int
    root: bool
    children: list[tuple[int, Edge]] = field(default_factory=list)
    """The edges from children, in order, each with the time at which its first chunk is taken."""
    parent: tuple[int, Edge] | None = None
    source: tuple[int, Edge] | None = None
    targets: list[tuple[int, Edge]] = field(default_factory=list)
    incoming: list[list[Node]] = field(default_factory=list)
    """The partial sums that each child sends."""
    largest: int = 0
    """Elements of the largest chunk."""
    scratch: int = 0
    slots: int = 0
    """Places for a chunk in scratch; for a helper, one more than sums need, where it receives what it hands on."""
    start_level: int = 0
    """When the broadcast begins."""
    turns: int = 1
    """Chunks that are at work at the same time: scratch is used in turns."""


class Writer(Protocol):
    """What writes the program: knows places and takes instructions."""

    own: tuple[Node, ...]
    member: bool
    overwrite: bool
    aligned: bool
    leaves: int

    def scratch(self, stream: Stream, chunk: int, slot: int) -> Place: ...

    def scratch_buffer(self) -> int: ...

    def result(self, start: int) -> Place: ...

    def peer(self, name: str) -> int: ...

    def emit(self, time: int, stream: Stream, instruction: Instruction) -> None: ...


class Sums:
    """The partial sums of one chunk at one node, joined as they come."""

    def __init__(self, compiler: Writer, stream: Stream, chunk: int, time: int, start: int, count: int) -> None:
        self.compiler, self.stream, self.chunk, self.start, self.count = compiler, stream, chunk, start, count
        self.places: dict[Node, Place] = {}
        slots = stream.slots - (not compiler.member)
        self.free = [compiler.scratch(stream, chunk, slot) for slot in range(slots)]
        self.expected = len(compiler.own) + sum(map(len, stream.incoming))
        self.time = time

    def hold(self, node: Node, place: Place) -> None:
        """Take in a sum that the node has of its own."""
        self.expected -= 1
        self._settle(node, place)

    def receive(self, node: Node, time: int, edge: Edge) -> None:
        """Take in a partial sum that comes; it is added on the way in if its counterpart is there."""
        self.time = time
        self.expected -= 1
        peer, rail = self.compiler.peer(edge.source), rail_of(edge)
        node = self._promoted(node)
        counterpart = self._counterpart(node)
        if counterpart is None:
            place = self._last_place() or self.free.pop()
            self._emit(Instruction(Op.RECEIVE, self.count, target=place, peer=peer, rail=rail))
        else:
            left = self.places.pop(counterpart)
            place = self._target(left)
            self._emit(Instruction(Op.RECEIVE_ADD, self.count, target=place, left=left, peer=peer, rail=rail))
            node = self._joined(counterpart, node)
        self._settle(node, place)

    def finish(self) -> list[Place]:
        """Give the places of the sums when all is there. A root's sum moves to where the result belongs."""
        places = [self.places[node] for node in sorted(self.places, key=lambda n: n.start)]
        if not self.stream.root:
            return places
        assert len(places) == 1, "the contributions do not tile the tree"
        if not self.compiler.member:
            return places
        result = self.compiler.result(self.start)
        if places[0] != result:
            self._emit(Instruction(Op.COPY, self.count, target=result, left=places[0]))
        return [result]

    def _settle(self, node: Node, place: Place) -> None:
        """Add siblings up as far as they go."""
        node = self._promoted(node)
        while (counterpart := self._counterpart(node)) is not None:
            other = self.places.pop(counterpart)
            left, right = sorted((place, other), key=self._is_scratch)
            target = self._target(left)
            self._emit(Instruction(Op.ADD, self.count, target=target, left=left, right=right))
            self.free.extend(p for p in (left, right) if p != target and self._is_scratch(p))
            node, place = self._joined(node, counterpart), target
        self.places[node] = place

    def _target(self, left: Place) -> Place:
        """Where a sum goes: over its left operand, unless that must stay, or the sum is the result."""
        if (last := self._last_place()) is not None:
            return last
        if self._is_scratch(left) or self.compiler.overwrite:
            return left
        return self.free.pop()

    def _last_place(self) -> Place | None:
        """The result's place, if nothing is missing and this sum is the root's."""
        compiler = self.compiler
        if self.stream.root and compiler.member and not self.expected and len(self.places) == 0:
            return compiler.result(self.start)
        return None

    def _is_scratch(self, place: Place) -> bool:
        return place.buffer == self.compiler.scratch_buffer()

    def _counterpart(self, node: Node) -> Node | None:
        if not self.compiler.aligned:
            return next(iter(self.places), None)
        sibling = Node(node.level, node.index ^ 1)
        return sibling if sibling in self.places else None

    def _promoted(self, node: Node) -> Node:
        while self.compiler.aligned and node.sibling_is_absent(self.compiler.leaves):
            node = node.parent
        return node

    def _joined(self, one: Node, other: Node) -> Node:
        return self._promoted(one.parent) if self.compiler.aligned else min(one, other)

    def _emit(self, instruction: Instruction) -> None:
        self.compiler.emit(self.time, self.stream, instruction)
