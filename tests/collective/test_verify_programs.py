"""Programs of every generator pass; whatever is changed in them is refused, with the rank and the instruction."""

from dataclasses import replace

import pytest
from clusters import clusters, star_cluster
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from manyhands.collective.algorithms import ALGORITHMS, ring, star
from manyhands.collective.compile import Contribution, compile_forest
from manyhands.collective.forest import Forest
from manyhands.collective.program import Instruction, Op, Place, Program
from manyhands.collective.tree import Node
from manyhands.collective.verify_programs import InvalidProgram, verify_programs
from manyhands.errors import UserError

OPERATIONS = ("all_reduce", "reduce_scatter", "all_gather", "broadcast", "reduce")


def programs_of(forest: Forest, numel: int, **options) -> list[Program]:
    return [compile_forest(forest, rank, numel, **options) for rank in range(len(forest.rank))]


def check(programs: list[Program], forest: Forest) -> None:
    root = forest.rank[forest.trees[0].root]
    verify_programs(programs, forest.operation, members=len(forest.members), root=root)


@settings(max_examples=150)
@given(data=st.data())
def test_all_generators_compile_to_valid_programs(data):
    cluster = data.draw(clusters(most=6))
    name, operation = data.draw(st.sampled_from(list(ALGORITHMS))), data.draw(st.sampled_from(OPERATIONS))
    try:
        forest = ALGORITHMS[name](cluster, operation)
    except UserError:
        assume(False)
    scatters = operation in ("reduce_scatter", "all_gather")
    numel = len(forest.members) * data.draw(st.sampled_from([1, 7, 64, 1000, 10**9])) + 0
    association = data.draw(st.sampled_from(["any", "aligned"]))
    in_place = not scatters and data.draw(st.booleans())
    chunks = data.draw(st.sampled_from([1, 2, 5]))
    check(programs_of(forest, numel, association=association, in_place=in_place, chunks=chunks), forest)


def test_a_rank_may_bring_several_contributions():
    forest = star(star_cluster(2))
    given = Contribution(((Node(0, 0), Node(0, 1), Node(0, 2)), (Node(0, 3),)), 4)
    programs = programs_of(forest, 64, association="aligned", contribution=given, in_place=False)
    check(programs, forest)
    skipped = replace(programs[0], instructions=tuple(i for i in programs[0].instructions if i.op != Op.ADD))
    with pytest.raises(InvalidProgram):
        check([skipped, programs[1]], forest)


@settings(max_examples=150)
@given(data=st.data())
def test_changed_programs_are_refused(data):
    cluster = data.draw(clusters(most=5, least=2))
    name = data.draw(st.sampled_from(list(ALGORITHMS)))
    operation = data.draw(st.sampled_from(OPERATIONS))
    try:
        forest = ALGORITHMS[name](cluster, operation)
    except UserError:
        assume(False)
    programs = programs_of(
        forest, 64 * len(forest.members), chunks=2, in_place="_" not in operation or operation == "all_reduce"
    )
    check(programs, forest)
    rank = data.draw(st.sampled_from([p.rank for p in programs if p.instructions]))
    steps = list(programs[rank].instructions)
    at = data.draw(st.integers(0, len(steps) - 1))
    step = steps[at]
    kind = data.draw(st.sampled_from(["drop", "double", "count", "peer", "place", "operation", "rail"]))
    if kind == "drop":
        # A copy whose result nobody needs any more may go.
        assume(step.op != Op.COPY)
        del steps[at]
    elif kind == "double":
        assume(step.op <= Op.RECEIVE_ADD)
        steps.insert(at, step)
    elif kind == "count":
        assume(step.op <= Op.RECEIVE_ADD and step.count > 1)
        steps[at] = step._replace(count=step.count - 1)
    elif kind == "peer":
        assume(step.op <= Op.RECEIVE_ADD and len(programs) > 2)
        others = [r for r in range(len(programs)) if r not in (rank, step.peer)]
        steps[at] = step._replace(peer=data.draw(st.sampled_from(others)))
    elif kind == "rail":
        assume(step.op <= Op.RECEIVE_ADD)
        steps[at] = step._replace(rail="elsewhere")
    elif kind == "place":
        assume(step.op == Op.SEND and step.left.start > 0)
        steps[at] = step._replace(left=Place(step.left.buffer, step.left.start - 1))
    else:
        assume(step.op == Op.RECEIVE_ADD)
        steps[at] = step._replace(op=Op.RECEIVE, left=None)
    changed = [*programs[:rank], replace(programs[rank], instructions=tuple(steps)), *programs[rank + 1 :]]
    with pytest.raises(InvalidProgram):
        check(changed, forest)


@settings(max_examples=100)
@given(data=st.data())
def test_swapped_messages_on_a_channel_are_refused(data):
    """Two sends of different data to the same peer, the wrong way round."""
    cluster = data.draw(clusters(most=5, least=3))
    forest = ring(cluster)
    programs = programs_of(forest, 64 * len(forest.members))
    rank = data.draw(st.integers(0, len(programs) - 1))
    steps = list(programs[rank].instructions)
    sends = [i for i, step in enumerate(steps) if step.op == Op.SEND]
    i, j = data.draw(st.sampled_from([(a, b) for a in sends for b in sends if a < b]))
    assume((steps[i].peer, steps[i].rail) == (steps[j].peer, steps[j].rail) and steps[i].left != steps[j].left)
    steps[i], steps[j] = steps[j], steps[i]
    with pytest.raises(InvalidProgram):
        check([*programs[:rank], replace(programs[rank], instructions=tuple(steps)), *programs[rank + 1 :]], forest)


def program(rank: int, *instructions: Instruction, sizes: tuple[int, ...] = (4, 4)) -> Program:
    return Program(rank=rank, sizes=sizes, inputs=1, output=0, instructions=instructions)


def at(start: int, buffer: int = 0) -> Place:
    return Place(buffer, start)


WHOLE = at(0)


@pytest.mark.parametrize(
    ("programs", "words"),
    [
        (
            [
                program(0, Instruction(Op.RECEIVE, 4, target=WHOLE, peer=1)),
                program(1, Instruction(Op.RECEIVE, 4, target=WHOLE, peer=0)),
            ],
            r"deadlock: rank 0, instruction 0 \(RECEIVE 1, 4 elements\); rank 1, instruction 0",
        ),
        (
            [
                program(0, Instruction(Op.SEND, 4, left=WHOLE, peer=1)),
                program(1, Instruction(Op.RECEIVE_ADD, 2, target=WHOLE, left=WHOLE, peer=0)),
            ],
            r"rank 1, instruction 0 .* waits for 2 elements, but 4 come",
        ),
        (
            [program(0, Instruction(Op.SEND, 4, left=WHOLE, peer=1)), program(1)],
            "rank 1 never receives 1 of the messages of rank 0",
        ),
        (
            [program(0, Instruction(Op.COPY, 2, target=WHOLE, left=at(1, 1))), program(1)],
            r"rank 0, instruction 0 .* reads \[1, 3\) of buffer 1, where nothing has been written",
        ),
        (
            [program(0, Instruction(Op.ADD, 1, target=WHOLE, left=WHOLE, right=WHOLE)), program(1)],
            "rank 0, instruction 0 .* adds the data of rank 0 a second time",
        ),
        (
            [program(0, Instruction(Op.SEND, 4, left=at(1), peer=1)), program(1)],
            r"\[1, 5\) lies outside buffer 0 of 4 elements",
        ),
        ([program(0, Instruction(Op.SEND, 4, left=WHOLE, peer=0)), program(1)], "there is no other rank 0"),
        ([program(0, Instruction(Op.SEND, 4, peer=1)), program(1)], "needs `left`"),
        ([program(0, Instruction(Op.COPY, 4, target=at(0, 7), left=WHOLE)), program(1)], "there is no buffer 7"),
        ([program(0), program(1)], r"rank 0: elements \[0, 4\) of the result hold the sum of rank 0's data$"),
        ([program(1), program(0)], "program 0 says that it is rank 1"),
    ],
)
def test_messages(programs, words):
    with pytest.raises(InvalidProgram, match=words):
        verify_programs(programs, "all_reduce")


def test_moved_data_is_named():
    programs = [
        program(0, Instruction(Op.SEND, 2, left=at(2), peer=1), Instruction(Op.SEND, 2, left=at(0), peer=1)),
        program(
            1, Instruction(Op.RECEIVE, 4 - 2, target=at(0), peer=0), Instruction(Op.RECEIVE, 2, target=at(2), peer=0)
        ),
    ]
    with pytest.raises(
        InvalidProgram, match=r"rank 1: elements \[0, 2\) of the result hold .* rank 0's data moved by 2"
    ):
        verify_programs(programs, "broadcast")


def test_large_sizes_cost_nothing():
    forest = ring(star_cluster(8))
    check(programs_of(forest, 8 * 10**15, chunks=4), forest)
