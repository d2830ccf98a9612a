"""Groups whose ranks are threads: what every operation does, for any world, dtype, size and channel."""

import random

import pytest
import torch
from groups import call, joined, no_unix, outcomes, together

from manyhands.transport import GroupError
from manyhands.transport.interpreter import DTYPES

SIZES = (0, 1, 7, 1000, 8193)
FLAVOURS = ["rings", "TCP", "Python", "mixed"]
SIGNED = [d for d in DTYPES if d not in (torch.uint16, torch.uint32, torch.uint64)]


def flavour(name, world, monkeypatch):
    if name == "TCP":
        no_unix(monkeypatch)
    return {"Python": range(world), "mixed": range(0, world, 2)}.get(name, ())


@pytest.fixture(
    scope="module", params=[(w, f) for w in (1, 2, 3, 5) for f in FLAVOURS if w > 1 or f == "rings"], ids=str
)
def groups(request):
    world, name = request.param
    with pytest.MonkeyPatch.context() as patch, joined(world, portable=flavour(name, world, patch)) as row:
        assert all((traffic.rail == "memory") == (name != "TCP") for traffic in row[0].traffic())
        yield row


def done(results):
    assert all(result is None for result in results), results


def numbers(world, count, dtype=torch.float32, seed=0):
    """Small integers: every order of summation gives the same."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 5, (count,), generator=generator).to(dtype) for _ in range(world)]


def total(rows, op="sum"):
    stacked = torch.stack([row.to(torch.float64) for row in rows])
    reduced = {
        "sum": lambda: stacked.sum(0),
        "avg": lambda: stacked.sum(0) / len(rows),
        "min": lambda: stacked.amin(0),
        "max": lambda: stacked.amax(0),
        "prod": lambda: stacked.prod(0),
    }[op]()
    return reduced.to(rows[0].dtype)


@pytest.mark.parametrize("size", SIZES)
def test_every_operation(groups, size):
    world = len(groups)
    rows = numbers(world, size)
    mine = [row.clone() for row in rows]
    done(call(groups, "all_reduce", [(t,) for t in mine]))
    assert all(torch.equal(t, total(rows)) for t in mine)

    wholes = numbers(world, size * world, seed=1)
    outputs = [torch.empty(size) for _ in groups]
    done(call(groups, "reduce_scatter", list(zip(outputs, [w.clone() for w in wholes], strict=True))))
    assert torch.equal(torch.cat(outputs), total(wholes))

    gathered = [torch.empty(size * world) for _ in groups]
    done(call(groups, "all_gather", list(zip(gathered, rows, strict=True))))
    assert all(torch.equal(t, torch.cat(rows)) for t in gathered)

    for root in {0, world - 1}:
        mine = [row.clone() for row in rows]
        done(call(groups, "broadcast", [(t, root) for t in mine]))
        assert all(torch.equal(t, rows[root]) for t in mine)

        mine = [row.clone() for row in rows]
        done(call(groups, "reduce", [(t, root) for t in mine]))
        for rank, t in enumerate(mine):
            assert torch.equal(t, total(rows) if rank == root else rows[rank])

        outputs = [torch.empty(size) for _ in groups]
        done(call(groups, "gather", [(outputs if r == root else None, rows[r], root) for r in range(world)]))
        assert all(torch.equal(a, b) for a, b in zip(outputs, rows, strict=True))

        outputs = [torch.empty(size) for _ in groups]
        done(call(groups, "scatter", [(outputs[r], rows if r == root else None, root) for r in range(world)]))
        assert all(torch.equal(a, b) for a, b in zip(outputs, rows, strict=True))
    done(call(groups, "barrier", [()] * world))


def test_all_to_all_of_uneven_and_empty_parts(groups):
    world = len(groups)
    inputs = [[torch.full((i * j % 4 * 1000 + i,), 10.0 * i + j) for j in range(world)] for i in range(world)]
    outputs = [[torch.empty_like(inputs[i][j]) for i in range(world)] for j in range(world)]
    done(call(groups, "all_to_all", list(zip(outputs, inputs, strict=True))))
    assert all(torch.equal(outputs[j][i], inputs[i][j]) for i in range(world) for j in range(world))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_and_reduction(groups, dtype):
    world = len(groups)
    for op in ("sum", "avg", "min", "max", "prod"):
        if op == "avg" and dtype not in SIGNED:
            continue  # torch cannot divide these
        rows = numbers(world, 999, dtype)
        mine = [row.clone() for row in rows]
        done(call(groups, "all_reduce", [(t, op) for t in mine]))
        for t in mine:
            assert torch.allclose(t.to(torch.float64), total(rows, op).to(torch.float64), rtol=1e-2), op
            assert torch.equal(t.view(torch.uint8), mine[0].view(torch.uint8))


def test_large_data_gives_the_same_bits_on_every_rank_and_every_time(groups):
    world = len(groups)
    rows = [torch.randn(5_000_000 // 4, generator=torch.Generator().manual_seed(r)) for r in range(world)]
    seen = []
    for _ in range(2):
        mine = [row.clone() for row in rows]
        done(call(groups, "all_reduce", [(t,) for t in mine]))
        seen += mine
    assert all(torch.equal(t, seen[0]) for t in seen)
    assert torch.allclose(seen[0], torch.stack(rows).sum(0), atol=1e-5)


def test_many_operations_at_once_are_done_in_order(groups):
    world, chance = len(groups), random.Random(7)
    calls, futures, wanted = [], [], []
    for i in range(60):
        size = chance.choice([1, 100, 3000, 40000])
        rows = numbers(world, size, seed=i)
        wanted.append((rows[i % world].clone() if i % 3 == 0 else total(rows), rows))
        calls.append(i)
        for rank, group in enumerate(groups):
            op = group.broadcast(rows[rank], i % world) if i % 3 == 0 else group.all_reduce(rows[rank])
            futures.append(op)
    done(outcomes(futures))
    for result, rows in wanted:
        assert all(torch.equal(row, result) for row in rows)


def test_facts_of_all_ranks_are_gathered(groups):
    data = [bytes(range(r * 7 % 256)) for r in range(len(groups))]
    for got in together(*(lambda g=g, d=d: g.all_gather_bytes(d) for g, d in zip(groups, data, strict=True))):
        assert got == data


def test_bytes_are_counted():
    with joined(2) as groups:
        rows = [torch.zeros(1 << 20) for _ in groups]
        done(call(groups, "all_reduce", [(t,) for t in rows]))
        for rank, group in enumerate(groups):
            (traffic,) = group.traffic()
            assert (traffic.peer, traffic.rail) == (1 - rank, "memory")
            assert 4 << 20 <= traffic.sent < (4 << 20) + 1000 and 4 << 20 <= traffic.received < (4 << 20) + 1000


def test_several_groups_of_the_same_ranks_work_at_the_same_time():
    with joined(3, name="a") as one, joined(3, name="b") as other:
        futures, rows = [], []
        for i in range(40):
            for groups in (one, other) if i % 2 else (other, one):
                tensors = numbers(3, 20000, seed=i)
                rows.append((total(tensors), tensors))
                order = [0, 1, 2] if i % 3 else [2, 1, 0]
                futures += [groups[r].all_reduce(tensors[r]) for r in order]
        done(outcomes(futures))
        assert all(torch.equal(t, result) for result, tensors in rows for t in tensors)


def test_what_would_be_silently_wrong_is_refused():
    with joined(2) as groups:
        for tensor in (torch.zeros(4, 4).t(), torch.zeros(3, dtype=torch.complex64)):
            with pytest.raises(ValueError, match="contiguous tensors"):
                groups[0].all_reduce(tensor)
            with pytest.raises(ValueError, match="contiguous tensors"):
                groups[0].send(tensor, 1)
        with pytest.raises(ValueError, match="2 times"):
            groups[0].all_gather(torch.zeros(3), torch.zeros(2))
        with pytest.raises(ValueError, match="cannot exchange messages with rank 0"):
            groups[0].send(torch.zeros(1), 0)
        done(call(groups, "barrier", [()] * 2))


def test_an_operation_cannot_be_cancelled():
    with joined(2) as groups:
        futures = [groups[0].all_reduce(torch.zeros(4))]
        assert not futures[0].cancel()
        futures.append(groups[1].all_reduce(torch.zeros(4)))
        done(outcomes(futures))


def test_a_closed_group_says_so():
    with joined(2) as groups:
        together(*(group.close for group in groups))
        with pytest.raises(GroupError, match="is closed"):
            groups[0].barrier()
        assert len(groups[0].traffic()) == 1
        groups[0].close()
