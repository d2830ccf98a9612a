"""The machine in C and the one in Python, against torch, numpy and each other."""

import os
import threading

import numpy as np
import pytest
import torch
from groups import DEADLINE, until
from hypothesis import given, settings
from hypothesis import strategies as st
from machines import HEADER, Bench
from test_compile import forests

from manyhands.collective import Instruction, Op, Place, Program, compile_forest
from manyhands.transport.interpreter import DTYPES, REDUCTIONS, MachineError, Outcome

UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)


def values(dtype, count, seed):
    """All that may go wrong: for floats any bits (subnormals, infinities, NaNs), for integers the whole range."""
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randint(0, 256, (count * dtype.itemsize,), dtype=torch.uint8, generator=generator)
    tensor = raw.view(dtype)
    if dtype.is_floating_point:
        special = [0.0, -0.0, 1.0, float("inf"), float("-inf"), float("nan"), torch.finfo(dtype).max]
        special += [torch.finfo(dtype).tiny, torch.finfo(dtype).smallest_normal / 4]
        where = torch.randint(0, 3, (count,), generator=generator)
        tensor = torch.where(where == 0, torch.randn(count, generator=generator).to(dtype), tensor)
        picked = torch.tensor(special).to(dtype)[torch.randint(0, len(special), (count,), generator=generator)]
        tensor = torch.where(where == 1, picked, tensor)
    return tensor


def expected(reduction, left, right):
    if left.dtype in UNSIGNED:
        numpy = {"sum": np.add, "min": np.minimum, "max": np.maximum, "prod": np.multiply}[reduction]
        return torch.from_numpy(numpy(left.numpy(), right.numpy()))
    function = {"sum": torch.add, "min": torch.minimum, "max": torch.maximum, "prod": torch.mul}[reduction]
    return function(left, right)


def same(one, other):
    """Bit for bit, but that a NaN is a NaN and, for a minimum or maximum, a zero a zero."""
    if one.dtype in UNSIGNED or not one.dtype.is_floating_point:
        return torch.equal(one.view(torch.uint8), other.view(torch.uint8))
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[one.dtype.itemsize]
    equal = (one.view(bits) == other.view(bits)) | (one.isnan() & other.isnan()) | ((one == 0) & (other == 0))
    return bool(equal.all())


def pair(count, op=Op.RECEIVE_ADD):
    """Rank 0 sends, rank 1 adds what comes to what it has."""
    send = Program(0, (count, 0), 1, 0, (Instruction(Op.SEND, count, left=Place(0, 0), peer=1),))
    place = Place(0, 0)
    receive = Program(1, (count, 0), 1, 0, (Instruction(op, count, target=place, left=place, peer=0),))
    return send, receive


@pytest.mark.parametrize("portable", [(), (0, 1)], ids=["C", "Python"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_arithmetic_is_torchs_for_every_dtype_and_reduction(dtype, portable):
    with Bench(2, portable) as bench:
        for reduction in REDUCTIONS:
            for count in (1, 7, 4099):
                sent, own = values(dtype, count, 1), values(dtype, count, 2)
                result = own.clone()
                bench.run(pair(count), [[sent], [result]], dtype, reduction)
                assert same(result, expected(reduction, own, sent)), (reduction, count)


def test_every_pair_of_halves_adds_up_as_in_torch():
    """All 65536 patterns of bits, each with several others."""
    for dtype in (torch.float16, torch.bfloat16):
        every = torch.arange(1 << 16).to(torch.int32).to(torch.uint16).view(dtype)
        with Bench(2) as bench:
            for shift in (0, 1, 1021, 30011):
                result = every.roll(shift).clone()
                wanted = torch.add(result, every)
                bench.run(pair(1 << 16), [[every], [result]], dtype)
                assert same(result, wanted), shift
                positive = ~wanted.isnan()
                assert torch.equal(result.signbit()[positive], wanted.signbit()[positive])


@settings(max_examples=120)
@given(st.data())
def test_any_forest_over_any_channels_gives_the_same_bits_as_computed_at_once(data):
    operation = data.draw(st.sampled_from(["all_reduce", "reduce", "broadcast", "reduce_scatter", "all_gather"]))
    forest = data.draw(forests(operation))
    world, nodes = len(forest.members), len(forest.rank)
    part = data.draw(st.sampled_from([0, 1, 2, 3, 17, 100, 1000, 5000]))
    split = operation in ("reduce_scatter", "all_gather")
    numel = part * world if split else part
    chunks = data.draw(st.integers(1, 8))
    place = operation in ("all_reduce", "broadcast") and data.draw(st.booleans())
    portable = data.draw(st.sets(st.integers(0, nodes - 1), max_size=nodes))
    capacity = data.draw(st.sampled_from([0, 64, 128, 4096]))
    ahead = data.draw(st.integers(0, 3))
    programs = [
        compile_forest(forest, rank, numel, chunks=chunks, in_place=place, ahead=ahead) for rank in range(nodes)
    ]
    generator = np.random.default_rng(data.draw(st.integers(0, 9)))
    dtype = data.draw(st.sampled_from([torch.int64, torch.int16, torch.uint8]))
    with Bench(nodes, portable, capacity) as bench:
        for _ in range(2):  # the second run finds the channels as the first left them
            given_, rows = [], []
            for rank, program in enumerate(programs):
                row = [torch.zeros(size, dtype=dtype) for size in program.sizes[: program.inputs]]
                if rank < world:
                    row[0].copy_(torch.from_numpy(generator.integers(0, 100, len(row[0]))))
                    given_.append(row[0].clone())
                rows.append(row)
            bench.run(programs, rows, dtype)
            check(forest, operation, place, given_, [rows[r][programs[r].output] for r in range(world)], rows)


def check(forest, operation, place, given_, outputs, rows):
    total = torch.stack(given_).sum(0).to(given_[0].dtype)
    root, part = forest.rank[forest.trees[0].root], len(given_[0]) // len(given_)
    for rank, output in enumerate(outputs):
        wanted = {
            "all_reduce": lambda: total,
            "reduce": lambda rank=rank, output=output: total if rank == root else output,
            "broadcast": lambda: given_[root],
            "reduce_scatter": lambda rank=rank: total[rank * part : (rank + 1) * part],
            "all_gather": lambda: torch.cat(given_),
        }[operation]()
        assert torch.equal(output, wanted), rank
        if not place:
            assert torch.equal(rows[rank][0], given_[rank])


@pytest.mark.parametrize("capacity", [64, 192, 1 << 14])
def test_elements_stay_whole_when_operations_of_odd_bytes_leave_the_ring_anywhere(capacity):
    """A ring that is nearly full when an operation begins lets its first elements through in parts."""
    generator = np.random.default_rng(0)
    with Bench(2, capacity=capacity) as bench:
        for _ in range(60):
            count = int(generator.integers(0, 300))
            odd = values(torch.uint8, count, 0), torch.zeros(count, dtype=torch.uint8)
            bench.run(pair(count, Op.RECEIVE), [[odd[0]], [odd[1]]], torch.uint8)
            assert torch.equal(*odd)
            size = int(generator.integers(1, 200))
            sent, result = torch.randn(size, dtype=torch.float64), torch.randn(size, dtype=torch.float64)
            wanted = result + sent
            bench.run(pair(size), [[sent], [result]], torch.float64)
            assert torch.equal(result, wanted)


@pytest.mark.parametrize("capacity", [0, 64, 1 << 16])
def test_what_is_still_to_be_sent_is_not_overwritten(capacity):
    """Both send a buffer and receive into it: what comes must wait until all is on its way, and then go on.

    The last of it may go just when one looks: who then slept would do so for ever.
    """
    count = 1 << 16
    programs = [
        Program(
            rank,
            (count, count, 0),
            2,
            0,
            (
                Instruction(Op.SEND, count, left=Place(0, 0), peer=1 - rank),
                Instruction(Op.RECEIVE, count, target=Place(1, 0), peer=1 - rank),
                Instruction(Op.ADD, count, target=Place(0, 0), left=Place(0, 0), right=Place(1, 0)),
                Instruction(Op.SEND, count - 1, left=Place(0, 1), peer=1 - rank),
                Instruction(Op.RECEIVE, count - 1, target=Place(1, 0), peer=1 - rank),
            ),
        )
        for rank in range(2)
    ]
    given_ = [torch.randn(count) for _ in range(2)]
    for portable in (*[()] * 10, (0,), (0, 1)):
        rows = [[given_[rank].clone(), torch.zeros(count)] for rank in range(2)]
        with Bench(2, portable, capacity, socket_buffer=4096) as bench:
            bench.run(programs, rows, torch.float32)
        for row in rows:
            assert torch.equal(row[0], given_[0] + given_[1])
            assert torch.equal(row[1][:-1], row[0][1:])


def raised(function):
    try:
        function()
    except MachineError as error:
        return error
    raise AssertionError("it ended as if all were well")


@pytest.mark.parametrize("portable", [(), (0, 1)], ids=["C", "Python"])
@pytest.mark.parametrize("capacity", [0, 1 << 14])
class TestWhatGoesWrong:
    def test_a_peer_that_does_not_come(self, portable, capacity):
        with Bench(2, portable, capacity) as bench:
            _, receive = pair(100)
            error = raised(bench.rank(receive, [torch.zeros(100)], torch.float32, seconds=0.1))
            assert (error.outcome, error.channel) == (Outcome.TIMED_OUT, 0)

    def test_a_peer_that_does_not_take_what_is_sent(self, portable, capacity):
        with Bench(2, portable, capacity) as bench:
            send, _ = pair(1 << 22)
            error = raised(bench.rank(send, [torch.zeros(1 << 22)], torch.float32, seconds=0.2))
            assert (error.outcome, error.channel) == (Outcome.TIMED_OUT, 0)

    def test_it_is_known_for_whom_it_waits_and_it_can_be_ended(self, portable, capacity):
        for role, count in ((0, 1 << 22), (1, 100)):
            with Bench(3, portable and (0, 1, 2), capacity) as bench:
                machine, program = bench.machines[role], pair(count)[role]
                errors = []
                run = bench.rank(program, [torch.zeros(count)], torch.float32)
                thread = threading.Thread(target=lambda errors=errors, run=run: errors.append(raised(run)))
                thread.start()
                until(lambda machine=machine: machine.waits_for(0), "the machine to wait")
                assert not machine.waits_for(1)
                machine.abort()
                thread.join(DEADLINE)
                assert not thread.is_alive()
                assert errors[0].outcome == Outcome.ABORTED
                assert raised(run).outcome == Outcome.ABORTED, "it stays ended"

    def test_another_operation(self, portable, capacity):
        with Bench(2, portable, capacity) as bench:
            send, receive = pair(100)
            bench.rank(send, [torch.zeros(100)], torch.float32, header=b"MHOP" + b"x" * 60)()
            error = raised(bench.rank(receive, [torch.zeros(100)], torch.float32))
            assert error.outcome == Outcome.MISMATCH
            assert error.header[8:56] == b"x" * 48

    def test_another_size(self, portable, capacity):
        with Bench(2, portable, capacity) as bench:
            bench.rank(pair(100)[0], [torch.zeros(100)], torch.float32)()
            error = raised(bench.rank(pair(101)[1], [torch.zeros(101)], torch.float32))
            assert error.outcome == Outcome.MISMATCH
            assert int.from_bytes(error.header[56:], "little") == 400

    def test_nothing_where_something_is_expected(self, portable, capacity):
        with Bench(2, portable, capacity) as bench:
            bench.rank(pair(0)[0], [torch.zeros(0)], torch.float32)()
            assert raised(bench.rank(pair(3)[1], [torch.zeros(3)], torch.float32)).outcome == Outcome.MISMATCH


@pytest.mark.parametrize("portable", [(), (0, 1)], ids=["C", "Python"])
def test_a_closed_connection_is_seen_at_once(portable):
    for role in (0, 1):
        with Bench(2, portable, 0) as bench:
            count = 1 << 22
            bench.channels[1 - role][role].close()
            error = raised(bench.rank(pair(count)[role], [torch.zeros(count)], torch.float32))
            assert (error.outcome, error.channel) == (Outcome.LOST, 0)


def test_a_peer_that_died_in_the_middle_of_an_element_does_not_keep_one_busy():
    with Bench(2, capacity=4096) as bench:
        header = HEADER[:56] + (400).to_bytes(8, "little")
        ring = bench.memory[1], 4096
        ring[0][ring[1] + 128 : ring[1] + 128 + 64] = header
        ring[0][ring[1] : ring[1] + 8] = (64 + 6).to_bytes(8, "little")  # as if so much had been written
        errors = []
        run = bench.rank(pair(100)[1], [torch.zeros(100)], torch.float32)
        thread = threading.Thread(target=lambda: errors.append(raised(run)), daemon=True)
        thread.start()
        until(lambda: bench.machines[1].waits_for(0), "the machine to wait")
        bench.machines[1].abort()
        thread.join(DEADLINE)
        assert errors[0].outcome == Outcome.ABORTED


def test_counts_what_it_moves():
    for capacity in (0, 4096):
        with Bench(2, capacity=capacity) as bench:
            bench.run(pair(1000), [[torch.zeros(1000)], [torch.zeros(1000)]], torch.float32)
            assert [m.traffic(0) for m in bench.machines] == [(4064, 0), (0, 4064)]
            bench.machines[0].close()
            assert bench.machines[0].traffic(0) == (4064, 0)
            bench.machines[0].abort()
            assert not bench.machines[0].waits_for(0)
            assert os.fstat(bench.bells[0])
