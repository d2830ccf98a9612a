"""Tensors on a device go through host memory in pieces; here tensors on the CPU are taken for such."""

import pytest
import torch
from groups import joined, outcomes

from manyhands.transport import staging


@pytest.fixture(autouse=True)
def all_on_a_device(monkeypatch):
    monkeypatch.setattr(staging, "on_device", lambda tensor: True)
    monkeypatch.setattr(staging, "PIECE", 4096)


@pytest.mark.parametrize("size", [0, 1, 1024, 5001])
def test_the_operations(size):
    world = 3
    with joined(world) as groups:

        def each(operation, make):
            tensors = [make(r) for r in range(world)]
            outcomes([operation(g, *row) for g, row in zip(groups, tensors, strict=True)])
            return tensors

        total = torch.full((size,), 3.0)
        for (tensor,) in each(lambda g, t: g.all_reduce(t), lambda r: (torch.full((size,), float(r)),)):
            assert torch.equal(tensor, total)
        for (tensor,) in each(lambda g, t: g.all_reduce(t, "avg"), lambda r: (torch.full((size,), float(r)),)):
            assert torch.equal(tensor, total / 3)
        for (tensor,) in each(lambda g, t: g.broadcast(t, 1), lambda r: (torch.full((size,), float(r)),)):
            assert torch.equal(tensor, torch.ones(size))
        rows = each(lambda g, t: g.reduce(t, 2), lambda r: (torch.full((size,), float(r)),))
        assert torch.equal(rows[2][0], total) and torch.equal(rows[0][0], torch.zeros(size))
        data = [torch.arange(size * world) + r for r in range(world)]
        for r, (out, _) in enumerate(
            each(lambda g, out, t: g.reduce_scatter(out, t), lambda r: (torch.zeros(size, dtype=torch.int64), data[r]))
        ):
            assert torch.equal(out, sum(data)[r * size : (r + 1) * size])
        for out, _ in each(
            lambda g, out, t: g.all_gather(out, t), lambda r: (torch.zeros(world * size), torch.full((size,), float(r)))
        ):
            assert torch.equal(out, torch.arange(3.0).repeat_interleave(size))
        outs = [[torch.zeros(size) for _ in range(world)] for _ in range(world)]
        ins = [[torch.full((size,), 10.0 * r + p) for p in range(world)] for r in range(world)]
        outcomes([g.all_to_all(outs[r], ins[r]) for r, g in enumerate(groups)])
        assert all(torch.equal(outs[r][p], ins[p][r]) for r in range(world) for p in range(world))
        received = torch.zeros(size)
        outcomes([groups[0].receive(received, 1), groups[1].send(torch.ones(size), 0)])
        assert torch.equal(received, torch.ones(size))
