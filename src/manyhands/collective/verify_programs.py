"""Proves that the ranks' programs together compute what they say, for any sizes, without computing it.

Problem: a program may add something twice, read what is not there, wait for ever, or leave bytes in a channel.
Idea: run all ranks with symbols instead of numbers. A stretch of a buffer holds a set of terms (source, shift): element
p is the sum of these ranks' data at p + shift. Copying moves the shift, adding joins the sets, and a source that
occurs twice is an error on the spot. Sends never block; when nobody can go on, those who wait are in a deadlock. At
the end every element of the output must hold exactly the terms that the operation asks for.
Cost: O(instructions log stretches), whatever the number of elements.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from itertools import pairwise

from manyhands.collective.forest import Operation
from manyhands.collective.program import Instruction, Op, Place, Program

Source = tuple[int, int]
"""(rank, input buffer): one contribution. A rank may bring several."""
Terms = frozenset[tuple[Source, int]]
"""(source, shift): the sum of these contributions, each taken at the own position plus the shift."""
Stretch = tuple[int, int, Terms]
"""A run of elements and what is there: start, stop, terms."""
Channel = tuple[int, int, str]


class InvalidProgram(ValueError):
    """Names the rank, the instruction and what is wrong."""


def verify_programs(
    programs: Sequence[Program], operation: Operation, *, members: int | None = None, root: int = 0
) -> None:
    """Check the programs of all ranks, helpers last.

    The data has `n * part` elements for reduce-scatter and all-gather. A rank's part lies in its place in a buffer that
    has room for all of the data, or at the start of one that has not.

    Args:
        members: how many ranks contribute and receive. Default: all.
        root: of a broadcast or reduce.

    Raises:
        InvalidProgram: what is wrong, at which rank and instruction.
    """
    count = len(programs) if members is None else members
    for index, program in enumerate(programs):
        _check_form(program, index, len(programs))
    total = _total(programs[:count], operation)
    machines = [_Machine(program) for program in programs]
    for machine in machines[:count]:
        _fill(machine, operation, count, root, total)
    _run(machines)
    everything = [source for program in programs[:count] for source in _sources(program)]
    for machine in machines[:count]:
        _check_result(machine, operation, everything, count, root, total)


def _check_form(program: Program, index: int, ranks: int) -> None:
    if program.rank != index:
        raise InvalidProgram(f"program {index} says that it is rank {program.rank}")
    if not 0 <= program.output < max(1, len(program.sizes)):
        raise InvalidProgram(f"rank {index}: its output is buffer {program.output}, but it has {len(program.sizes)}")
    for step, instruction in enumerate(program.instructions):
        needs = _OPERANDS[instruction.op]
        for name in ("target", "left", "right"):
            place: Place | None = getattr(instruction, name)
            if (name in needs) != (place is not None):
                word = "needs" if place is None else "has no use for"
                raise InvalidProgram(f"{_at(index, step, instruction)}: {word} `{name}`")
            if place is not None:
                _check_place(place, instruction.count, program, _at(index, step, instruction))
        if instruction.count < 0:
            raise InvalidProgram(f"{_at(index, step, instruction)}: count {instruction.count} is negative")
        if instruction.op <= Op.RECEIVE_ADD and (not 0 <= instruction.peer < ranks or instruction.peer == index):
            raise InvalidProgram(f"{_at(index, step, instruction)}: there is no other rank {instruction.peer}")


_OPERANDS = {
    Op.SEND: ("left",),
    Op.RECEIVE: ("target",),
    Op.RECEIVE_ADD: ("target", "left"),
    Op.ADD: ("target", "left", "right"),
    Op.COPY: ("target", "left"),
}


def _check_place(place: Place, count: int, program: Program, at: str) -> None:
    if not 0 <= place.buffer < len(program.sizes):
        raise InvalidProgram(f"{at}: there is no buffer {place.buffer}")
    if place.start < 0 or place.start + count > program.sizes[place.buffer]:
        stop, size = place.start + count, program.sizes[place.buffer]
        raise InvalidProgram(f"{at}: [{place.start}, {stop}) lies outside buffer {place.buffer} of {size} elements")


def _total(programs: Sequence[Program], operation: Operation) -> int:
    """Elements of the whole data."""
    total = max(max(program.sizes[0], program.sizes[program.output]) for program in programs)
    if operation in ("reduce_scatter", "all_gather") and total % len(programs):
        raise InvalidProgram(f"{total} elements cannot be cut into {len(programs)} equal parts for {operation}")
    return total


def _part(rank: int, count: int, total: int) -> tuple[int, int]:
    size = total // count
    return rank * size, (rank + 1) * size


def _sources(program: Program) -> list[Source]:
    """What a rank brings along: every buffer of the caller's, except where the result is to go."""
    return [(program.rank, buffer) for buffer in range(program.output or max(1, program.inputs))]


def _fill(machine: _Machine, operation: Operation, count: int, root: int, total: int) -> None:
    """Put a rank's data where its program expects it."""
    start, stop = _part(machine.rank, count, total) if operation == "all_gather" else (0, total)
    if start == stop or (operation == "broadcast" and machine.rank != root):
        return
    for source in _sources(machine.program):
        at = start if machine.program.sizes[source[1]] == total else 0
        terms = frozenset([(source, start)])
        machine.memory[source[1]].write(at, at + stop - start, [(0, stop - start, terms)])


class _Memory:
    """The stretches of one buffer, in order and not overlapping; gaps are undefined."""

    def __init__(self) -> None:
        self.stretches: list[Stretch] = []

    def _first(self, start: int) -> int:
        index = bisect_right(self.stretches, start, key=lambda stretch: stretch[0])
        return index - 1 if index and self.stretches[index - 1][1] > start else index

    def read(self, start: int, stop: int) -> list[Stretch] | None:
        """What is there, with positions and shifts counted from `start`; None if some of it is undefined."""
        found, at, index = [], start, self._first(start)
        while at < stop:
            if index == len(self.stretches) or self.stretches[index][0] > at:
                return None
            _, end, terms = self.stretches[index]
            end = min(end, stop)
            found.append((at - start, end - start, frozenset((source, shift + start) for source, shift in terms)))
            at, index = end, index + 1
        return found

    def write(self, start: int, stop: int, value: Sequence[Stretch]) -> None:
        """Put a value, positions counted from `start`, in place of what was there."""
        if start == stop:
            return
        low = self._first(start)
        high, kept = low, []
        while high < len(self.stretches) and self.stretches[high][0] < stop:
            left, right, terms = self.stretches[high]
            if left < start:
                kept.append((left, start, terms))
            if right > stop:
                kept.append((stop, right, terms))
            high += 1
        moved = [(a + start, b + start, frozenset((source, shift - start) for source, shift in t)) for a, b, t in value]
        self.stretches[low:high] = sorted((*kept, *moved), key=lambda stretch: stretch[0])


class _Machine:
    """One rank in the middle of its program."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.rank = program.rank
        self.memory = [_Memory() for _ in program.sizes] or [_Memory()]
        self.step = 0

    @property
    def at(self) -> str:
        return _at(self.rank, self.step, self.program.instructions[self.step])

    def read(self, place: Place | None, count: int) -> list[Stretch]:
        assert place is not None
        value = self.memory[place.buffer].read(place.start, place.start + count)
        if value is None:
            where = f"[{place.start}, {place.start + count}) of buffer {place.buffer}"
            raise InvalidProgram(f"{self.at}: reads {where}, where nothing has been written")
        return value

    def add(self, left: list[Stretch], right: list[Stretch]) -> list[Stretch]:
        cuts = sorted({edge for a, b, _ in (*left, *right) for edge in (a, b)})
        result, i, j = [], 0, 0
        for start, stop in pairwise(cuts):
            while left[i][1] <= start:
                i += 1
            while right[j][1] <= start:
                j += 1
            twice = {source for source, _ in left[i][2]} & {source for source, _ in right[j][2]}
            if twice:
                raise InvalidProgram(f"{self.at}: adds the data of rank {min(twice)[0]} a second time")
            result.append((start, stop, left[i][2] | right[j][2]))
        return result

    def advance(self, channels: dict[Channel, deque[list[Stretch]]]) -> Channel | bool | None:
        """Carry out one instruction. False if it has to wait, the channel if it sent, else None."""
        instruction = self.program.instructions[self.step]
        op, count, target = instruction.op, instruction.count, instruction.target
        sent = None
        if op == Op.SEND:
            sent = (self.rank, instruction.peer, instruction.rail)
            channels.setdefault(sent, deque()).append(self.read(instruction.left, count))
            self.step += 1
            return sent
        if op in (Op.RECEIVE, Op.RECEIVE_ADD):
            queue = channels.get((instruction.peer, self.rank, instruction.rail))
            if not queue:
                return False
            value = queue.popleft()
            arrived = value[-1][1] if value else 0
            if arrived != count:
                raise InvalidProgram(f"{self.at}: waits for {count} elements, but {arrived} come")
            if op == Op.RECEIVE_ADD:
                value = self.add(self.read(instruction.left, count), value)
        elif op == Op.ADD:
            value = self.add(self.read(instruction.left, count), self.read(instruction.right, count))
        else:
            value = self.read(instruction.left, count)
        assert target is not None
        self.memory[target.buffer].write(target.start, target.start + count, value)
        self.step += 1
        return None


def _run(machines: Sequence[_Machine]) -> None:
    """Run all programs to their end."""
    channels: dict[Channel, deque[list[Stretch]]] = {}
    waiting: dict[Channel, _Machine] = {}
    ready = deque(machines)
    while ready:
        machine = ready.popleft()
        while machine.step < len(machine.program.instructions):
            outcome = machine.advance(channels)
            if outcome is False:
                instruction = machine.program.instructions[machine.step]
                waiting[instruction.peer, machine.rank, instruction.rail] = machine
                break
            if isinstance(outcome, tuple) and outcome in waiting:
                ready.append(waiting.pop(outcome))
    if waiting:
        raise InvalidProgram("deadlock: " + "; ".join(machine.at for machine in waiting.values()) + " waits for ever")
    for (source, target, rail), queue in channels.items():
        if queue:
            on = f" on rail {rail}" if rail else ""
            raise InvalidProgram(f"rank {target} never receives {len(queue)} of the messages of rank {source}{on}")


def _check_result(
    machine: _Machine, operation: Operation, everything: Sequence[Source], count: int, root: int, total: int
) -> None:
    rank, output = machine.rank, machine.program.output
    if operation == "reduce" and rank != root:
        return
    start, stop = _part(rank, count, total) if operation == "reduce_scatter" else (0, total)
    at = start if machine.program.sizes[output] == total else 0
    value = machine.memory[output].read(at, at + stop - start)
    if value is None:
        raise InvalidProgram(f"rank {rank}: some of its result was never written")
    wanted: list[tuple[int, int, Sequence[Source]]] = [(start, stop, everything)]
    if operation == "all_gather":
        wanted = [(*_part(source, count, total), [(source, 0)]) for source in range(count)]
    elif operation == "broadcast":
        wanted = [(start, stop, [(root, 0)])]
    for low, high, terms in value:
        for first, last, sources in wanted:
            first, last = max(first, low + start), min(last, high + start)
            # Shifts are counted from `start`, so what is in its place has just that.
            if first < last and terms != frozenset((source, start) for source in sources):
                raise InvalidProgram(
                    f"rank {rank}: elements [{first}, {last}) of the result hold {_words(terms, start)}"
                )


def _words(terms: Terms, start: int) -> str:
    parts = [
        f"rank {rank}'s data" + (f" moved by {shift - start}" if shift != start else "") for (rank, _), shift in terms
    ]
    return "the sum of " + ", ".join(sorted(parts)) if parts else "nothing"


def _at(rank: int, step: int, instruction: Instruction) -> str:
    peer = f" {instruction.peer}" if instruction.peer >= 0 else ""
    rail = f" on {instruction.rail}" if instruction.rail else ""
    return f"rank {rank}, instruction {step} ({instruction.op.name}{peer}{rail}, {instruction.count} elements)"
