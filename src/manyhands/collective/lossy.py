"""Sums that travel in fewer bits: bf16 (half the bytes) or int8 (about a quarter).

A program is rewritten: what is sent is first encoded, what is received is decoded as it is added, in fp32. The root of
each tree rounds its sum as the wire would, so that all ranks have the same bits; both formats reproduce what they
once encoded, so handing on loses no more.

What a rank loses when it encodes partial sums, or rounds a root's, it adds to what it encodes of the same elements next
time (error feedback), so over many rounds nothing is lost. Source: Karimireddy et al., "Error Feedback Fixes SignSGD
and other Gradient Compression Schemes", ICML 2019.

int8: in blocks of 256 numbers, an exponent e (int8) and then q (int8) with x = q * 2**e, where 2**e is the least power
of two for which the largest |q| is at most 127. A block with a number that is not finite decodes to NaN.
"""

from __future__ import annotations

from typing import Literal

from manyhands.collective.program import Instruction, Op, Place, Program

Wire = Literal["full", "bf16", "int8"]
BLOCK = 256
"""Numbers that share an exponent."""
_SENDS_IN_FLIGHT = 8
"""Encoded messages that may be on their way before the first must have left."""


def words(wire: Wire, count: int) -> int:
    """Elements (4 bytes) that `count` numbers take on the wire."""
    size = 2 * count if wire == "bf16" else count + -(-count // BLOCK)
    return -(-size // 4)


def compressed(program: Program, wire: Wire) -> Program:
    """The program with a lossy wire format; it must have been compiled with `lossy=True`.

    Raises:
        ValueError: `wire` is no lossy format.
    """
    if wire not in ("bf16", "int8"):
        raise ValueError(f"{wire} is no lossy wire format: there are bf16 and int8")
    encode, decode = (Op.ENCODE_BF16, Op.DECODE_BF16) if wire == "bf16" else (Op.ENCODE_INT8, Op.DECODE_INT8)
    scratch, base = len(program.sizes) - 1, program.sizes[-1]
    line = 16  # messages start at cache lines
    largest = max((words(wire, step.count) for step in program.instructions), default=0)
    room = -(-largest // line) * line
    base = -(-base // line) * line
    incoming = Place(scratch, base + _SENDS_IN_FLIGHT * room)
    steps: list[Instruction] = []
    sent = 0
    for step in program.instructions:
        size = words(wire, step.count)
        if step.op is Op.SEND:
            place = Place(scratch, base + sent % _SENDS_IN_FLIGHT * room)
            sent += 1
            steps.append(Instruction(encode, step.count, target=place, left=step.left, right=step.right))
            steps.append(Instruction(Op.SEND, size, left=place, peer=step.peer, rail=step.rail))
        elif step.op in (Op.RECEIVE, Op.RECEIVE_ADD):
            steps.append(Instruction(Op.RECEIVE, size, target=incoming, peer=step.peer, rail=step.rail))
            steps.append(Instruction(decode, step.count, target=step.target, left=step.left, right=incoming))
        elif step.op is Op.ROUND:
            steps.append(Instruction(encode, step.count, target=incoming, left=step.left, right=step.right))
            steps.append(Instruction(decode, step.count, target=step.target, right=incoming))
        else:
            steps.append(step)
    sizes = (*program.sizes[:-1], base + (_SENDS_IN_FLIGHT + 1) * room)
    return Program(program.rank, sizes, program.inputs, program.output, tuple(steps))
