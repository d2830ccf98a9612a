"""Turns a forest into each rank's program.

A tree's range of the data is cut into chunks that follow each other through the tree, so all its links work at
once. A message (tree, edge, chunk j) has the time `j + level`, where the level of an edge is greater than those of
the edges it depends on. Every rank sorts what it has to do by time. So the order of messages on a channel is the same
at both ends and needs no headers, and the ranks cannot block each other in a circle: among the messages that are not
yet through, one with the least time has all it needs, and a receiver that is there for it.

A message is taken half a step after its time, so every rank sends before it waits; or `ahead` steps more: then so many
more chunks are on their way, and a link has work while a rank waits for a core. Levels on a tree's way are 1 + ahead
steps apart, so what is sent on has been taken. In the code, times are in half steps.

All trees are cut into the same number of chunks: each tree's chunks are as large as its share, so in every unit
of time each link carries its share of the plan. With C chunks and a tree of depth d the links stand idle for
d / (C + d) of the time.

How partial sums are joined is the `association`. `any`: a node adds to its own data what comes, in order of the
levels. `aligned`: only siblings of the aligned binary tree (collective/tree.py) are added, so every forest gives the
same bits; where a node holds partial sums that are no siblings, its edge carries all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from manyhands.collective.forest import Edge, Forest, Tree, rail_of
from manyhands.collective.pipelining import levels_of, ranges
from manyhands.collective.program import Instruction, Op, Place, Program
from manyhands.collective.sums import Stream, Sums
from manyhands.collective.tree import Node, fold

Association = Literal["any", "aligned"]
_STEP = 2
"""Half steps from a chunk's time to that of the next."""


class Contribution(NamedTuple):
    """What the ranks bring along: subtrees of the aligned tree over `total` leaves, in order, tiling it."""

    nodes: tuple[tuple[Node, ...], ...]
    """The subtrees that each member brings along."""
    total: int


def one_each(members: int) -> Contribution:
    """Every rank brings one leaf."""
    return Contribution(tuple((Node(0, rank),) for rank in range(members)), members)


def compile_forest(
    forest: Forest,
    rank: int,
    numel: int,
    *,
    chunks: int = 1,
    association: Association = "any",
    contribution: Contribution | None = None,
    in_place: bool = True,
    lossy: bool = False,
    ahead: int = 0,
) -> Program:
    """The program of one rank (or helper: `forest.rank` numbers them).

    Args:
        numel: elements of the whole data.
        chunks: messages that each tree's range is cut into.
        contribution: what the members bring; by default one leaf each. A rank with p nodes has p input buffers.
        in_place: the result replaces buffer 0, and inputs may be overwritten. Otherwise inputs stay as they are and
            the result goes to a buffer of its own, after the inputs. Required for contributions of several nodes, where
            inputs are overwritten all the same, and for `reduce_scatter` and `all_gather`.
        lossy: for all-reduce, prepare the program for a lossy wire format (lossy.py): one more buffer, before the
            scratch, holds what earlier rounds lost.
        ahead: chunks that are sent before the first must have been taken, besides one.
    """
    contribution = contribution or one_each(len(forest.members))
    return Compiler(forest, rank, numel, chunks, association, contribution, in_place, lossy, ahead).compile()


class Compiler:
    def __init__(
        self,
        forest: Forest,
        rank: int,
        numel: int,
        chunks: int,
        association: Association,
        contribution: Contribution,
        in_place: bool,
        lossy: bool,
        ahead: int,
    ) -> None:
        self.lossy, self.ahead = lossy, ahead
        self.forest, self.rank, self.numel, self.chunks = forest, rank, numel, chunks
        self.aligned = association == "aligned"
        self.contribution = contribution
        self.leaves = contribution.total
        self.name = next(name for name, number in forest.rank.items() if number == rank)
        self.member = rank < len(forest.members)
        self.reduces = forest.operation in ("all_reduce", "reduce_scatter", "reduce")
        self.own = contribution.nodes[rank] if self.member and self.reduces else ()
        self.inputs = max(1, len(self.own)) if self.member else 0
        self.output = 0 if in_place else self.inputs
        self.in_place = in_place
        self.overwrite = in_place or self.inputs > 1
        self.parts = len(forest.members) if forest.operation in ("reduce_scatter", "all_gather") else 1
        self.part = numel // self.parts
        self.steps: list[tuple[tuple[int, ...], int, Instruction]] = []

    def compile(self) -> Program:
        streams = [
            self._stream(index, tree, start, stop)
            for index, (tree, (start, stop)) in enumerate(
                zip(self.forest.trees, ranges(self.forest, self.numel), strict=True)
            )
        ]
        streams = [s for s in streams if s.children or s.parent or s.source or s.targets or s.root]
        scratch = 0
        for stream in streams:
            stream.scratch = scratch
            stream.largest = max(stop - start for start, stop in (self._chunk(stream, c) for c in range(self.chunks)))
            scratch += stream.slots * stream.turns * stream.largest
        for stream in streams:
            for chunk in range(self.chunks):
                start, stop = self._chunk(stream, chunk)
                if stop > start:
                    self._run(stream, chunk, start, stop - start)
        self.steps.sort(key=lambda step: step[:2])
        sizes = [self._input_size()] * self.inputs
        if self.output == self.inputs and self.member:
            sizes.append(self._output_size())
        if self.lossy:
            sizes.append(self.numel)
        return Program(
            rank=self.rank,
            sizes=(*sizes, scratch),
            inputs=len(sizes),
            output=self.output,
            instructions=tuple(step[2] for step in self.steps),
        )

    # Sizes and places

    def _input_size(self) -> int:
        return self.part if self.forest.operation == "all_gather" else self.numel

    def _output_size(self) -> int:
        return self.part if self.forest.operation == "reduce_scatter" else self.numel

    def _chunk(self, stream: Stream, chunk: int) -> tuple[int, int]:
        size = stream.stop - stream.start
        line = 16  # chunks start at cache lines
        lines = -(-size // line)
        cut = [min(size, lines * (chunk + i) // self.chunks * line) for i in (0, 1)]
        return stream.start + cut[0], stream.start + cut[1]

    def scratch(self, stream: Stream, chunk: int, slot: int) -> Place:
        turn = chunk % stream.turns
        return Place(self.scratch_buffer(), stream.scratch + (turn * stream.slots + slot) * stream.largest)

    def scratch_buffer(self) -> int:
        return self.inputs + (1 if self.member and self.output == self.inputs else 0) + self.lossy

    def _lost(self, start: int) -> Place | None:
        """The place that keeps what a lossy format loses of this part of the data; None without one."""
        return Place(self.scratch_buffer() - 1, start) if self.lossy else None

    def result(self, start: int) -> Place:
        if self.forest.operation == "reduce_scatter" and not self.in_place:
            return Place(self.output, start - self.rank * self.part)
        return Place(self.output, start)

    # One tree

    def _stream(self, index: int, tree: Tree, start: int, stop: int) -> Stream:
        hop = _STEP * (1 + self.ahead)
        levels = levels_of(tree, hop)
        stream = Stream(index, start, stop, tree.root == self.name)
        stream.start_level = max((level + hop for level in levels.reduce.values()), default=0)
        for edge, level in levels.reduce.items():
            if edge.target == self.name:
                stream.children.append((level + hop - 1, edge))
                stream.incoming.append(self.partials(tree, edge))
            if edge.source == self.name:
                stream.parent = (level, edge)
        for edge, level in levels.broadcast.items():
            if edge.target == self.name:
                stream.source = (level + hop - 1, edge)
            if edge.source == self.name:
                stream.targets.append((level, edge))
        if self.reduces:
            stream.slots = sum(map(len, stream.incoming)) + (0 if self.own and self.overwrite else 1)
        if not self.member:
            stream.slots += 1
        used = [level for level, _ in (*stream.children, *stream.targets, stream.parent or stream.source or (0, None))]
        stream.turns = 1 + (max(used) - min(used)) // _STEP
        return stream

    def partials(self, tree: Tree, edge: Edge) -> list[Node]:
        """The partial sums that travel along an edge of the reduce tree, in order."""
        below: dict[str, list[int]] = {}
        for e in tree.reduce:
            own = [self.forest.rank[e.source]] if e.source in self.forest.members else []
            below[e.source] = below.get(e.source, []) + own
            if e == edge:
                break
            below.setdefault(e.target, []).extend(below[e.source])
        return self._joined(sorted(below[edge.source]))

    def _joined(self, members: Sequence[int]) -> list[Node]:
        nodes = [node for member in members for node in self.contribution.nodes[member]]
        if not self.aligned:
            return nodes[:1]
        return list(fold(nodes, self.contribution.total).rest)

    def emit(self, time: int, stream: Stream, instruction: Instruction) -> None:
        self.steps.append(((time, stream.index), len(self.steps), instruction))

    def peer(self, name: str) -> int:
        return self.forest.rank[name]

    def _run(self, stream: Stream, chunk: int, start: int, count: int) -> None:
        time = _STEP * chunk
        held: list[Place] = []
        result = self.result(start) if self.member else None
        if self.reduces:
            held = self._reduce(stream, chunk, start, count)
        elif stream.root:
            held = [self._given(stream, chunk, start, count)]
        if stream.parent is not None:
            level, edge = stream.parent
            for place in held:
                self.emit(
                    time + level,
                    stream,
                    Instruction(
                        Op.SEND,
                        count,
                        left=place,
                        right=self._lost(start),
                        peer=self.peer(edge.target),
                        rail=rail_of(edge),
                    ),
                )
        if stream.source is not None:
            level, edge = stream.source
            result = result or self.scratch(stream, chunk, stream.slots - 1)
            self.emit(
                time + level,
                stream,
                Instruction(Op.RECEIVE, count, target=result, peer=self.peer(edge.source), rail=rail_of(edge)),
            )
        elif stream.root and held:
            result = held[0]
            if self.lossy:  # so that the root has what the others get
                begin = time + stream.start_level
                rounded = Instruction(Op.ROUND, count, target=result, left=result, right=self._lost(start))
                self.emit(begin, stream, rounded)
        for level, edge in stream.targets:
            assert result is not None
            self.emit(
                time + level,
                stream,
                Instruction(Op.SEND, count, left=result, peer=self.peer(edge.target), rail=rail_of(edge)),
            )

    def _given(self, stream: Stream, chunk: int, start: int, count: int) -> Place:
        """The place in the output of the data that a root hands out."""
        own = Place(0, start - self.rank * self.part) if self.forest.operation == "all_gather" else Place(0, start)
        result = self.result(start)
        if own != result:
            self.emit(_STEP * chunk, stream, Instruction(Op.COPY, count, target=result, left=own))
        return result

    def _reduce(self, stream: Stream, chunk: int, start: int, count: int) -> list[Place]:
        """Join the node's own data with what its children send. Returns where the partial sums are, in order."""
        sums = Sums(self, stream, chunk, _STEP * chunk, start, count)
        for buffer, node in enumerate(self.own):
            sums.hold(node, Place(buffer, start))
        for (level, edge), nodes in zip(stream.children, stream.incoming, strict=True):
            for node in nodes:
                sums.receive(node, _STEP * chunk + level, edge)
        return sums.finish()
