"""The gang's sums against one process, bit for bit, between real processes; and what happens when one dies."""

import os
import select
import signal
import socket
import traceback
import warnings
from typing import get_args

import pytest
import torch
from deadlines import DEADLINE

from manyhands.cluster import preset
from manyhands.collective import Fold, Node, assign_blocks, fold, leaves
from manyhands.plan import Collective
from manyhands.sync import Exchange, LocalSum, choose_forest, lay_out
from manyhands.transport import Group, PeerLostError, links_over

CPU = torch.device("cpu")
SHAPES = [
    ((5, 7), torch.float32),
    ((), torch.float32),
    ((0, 3), torch.float32),
    ((300,), torch.bfloat16),
    ((33, 3), torch.float64),
    ((2000,), torch.float32),
    ((1,), torch.bfloat16),
]


def values(total: int, step: int) -> list[list[torch.Tensor]]:
    """One row of tensors per micro-batch."""
    generator = torch.Generator().manual_seed(step)
    return [[(torch.randn(s, generator=generator) * 100).to(d) for s, d in SHAPES] for _ in range(total)]


def tree(parts: list[torch.Tensor]) -> torch.Tensor:
    """The aligned binary tree, by recursion."""
    if len(parts) == 1:
        return parts[0]
    half = 1 << (len(parts) - 1).bit_length() - 1
    return tree(parts[:half]) + tree(parts[half:])


def bits(tensor: torch.Tensor) -> tuple:
    return tuple(tensor.shape), str(tensor.dtype), tensor.reshape(-1).contiguous().view(torch.uint8).tolist()


class Gang:
    """Forked workers with a socket between every two, and a pipe on which each says that it got somewhere."""

    def __init__(self, world: int, work) -> None:
        self.pids, self.said = [], []
        self.links = [[None] * world for _ in range(world)]
        for low in range(world):
            for high in range(low + 1, world):
                self.links[low][high], self.links[high][low] = socket.socketpair()
        for rank in range(world):
            read, write = os.pipe()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                pid = os.fork()
            if pid == 0:
                self._be(rank, work, write)
            self.pids.append(pid)
            self.said.append(read)
            os.close(write)
        for row in self.links:
            for link in row:
                if link is not None:
                    link.close()

    def _be(self, rank, work, write) -> None:
        signal.alarm(int(DEADLINE))
        code = 1
        try:
            torch.set_num_threads(1)
            for row in self.links:
                for link in row if row is not self.links[rank] else []:
                    if link is not None:
                        link.close()
            work(rank, self.links[rank], lambda text: os.write(write, text.encode()))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def hear(self, rank: int) -> str:
        assert select.select([self.said[rank]], [], [], DEADLINE)[0], f"worker {rank} says nothing"
        return os.read(self.said[rank], 1000).decode()

    def wait(self, rank: int) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pids[rank], 0)[1])

    def close(self) -> None:
        for pid in self.pids:
            try:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            except (ProcessLookupError, ChildProcessError):
                pass
        for descriptor in self.said:
            os.close(descriptor)


@pytest.fixture
def gangs():
    made = []

    def make(world, work):
        made.append(Gang(world, work))
        return made[-1]

    yield make
    for gang in made:
        gang.close()


def parts(total: int, rank: int, world: int, reproducible: bool = True):
    """The block of a rank, its local plan, everyone's subtrees, and the number of leaves between workers."""
    blocks = assign_blocks(total, world)
    block = blocks[rank]
    if reproducible:
        return block, fold(leaves(*block), total), [b.pieces(total) for b in blocks], total
    plan = Fold((0,) + (1,) * (block.size - 1), (Node(0, rank),))
    return block, plan, [(Node(0, r),) for r in range(world)], world


def joined(rank, links) -> Group:
    return Group(rank, links_over(rank, links), timeout=DEADLINE)


def take_part(
    rank, links, total, steps, bucket_bytes, device=CPU, before_announce=lambda step, bucket: None, algorithm="auto"
):
    """A worker's steps; yields the totals of each."""
    world = len(links)
    block, plan, nodes, tree_leaves = parts(total, rank, world)
    layout = lay_out(values(1, 0)[0], bucket_bytes)
    forest, _ = choose_forest(algorithm, world)
    exchange = Exchange(layout, nodes, tree_leaves, joined(rank, links), device, forest)
    local = LocalSum(plan, exchange.outputs)
    for step in range(steps):
        rows = values(total, step)
        for leaf, index in enumerate(range(*block)):
            for number, bucket in enumerate(layout.buckets):
                local.push(leaf, bucket.items, [rows[index][item] for item in bucket.items])
                if leaf == block.size - 1:
                    before_announce(step, number)
                    exchange.announce(number)
        assert exchange.finish(f"{rank}/{step}".encode()) == [f"{r}/{step}".encode() for r in range(world)]
        local.clear()
        yield exchange.totals
    exchange.group.close()


@pytest.mark.parametrize("bucket_bytes", [64, 4 << 20])
@pytest.mark.parametrize(("world", "total"), [(2, 2), (2, 8), (3, 8), (3, 7), (4, 6), (4, 5)])
def test_every_worker_has_the_sums_of_one_process(gangs, world, total, bucket_bytes):
    def work(rank, links, say):
        for step, totals in enumerate(take_part(rank, links, total, 5, bucket_bytes)):
            rows = values(total, step)
            for item in range(len(SHAPES)):
                assert bits(totals[item]) == bits(tree([row[item] for row in rows])), (step, item)

    gang = gangs(world, work)
    assert [gang.wait(rank) for rank in range(world)] == [0] * world


@pytest.mark.parametrize("algorithm", [a for a in get_args(Collective) if a != "auto"])
def test_the_sums_are_the_same_however_they_travel(gangs, algorithm):
    def work(rank, links, say):
        for step, totals in enumerate(take_part(rank, links, 7, 2, 4 << 20, algorithm=algorithm)):
            rows = values(7, step)
            for item in range(len(SHAPES)):
                assert bits(totals[item]) == bits(tree([row[item] for row in rows])), (step, item)

    gang = gangs(4, work)
    assert [gang.wait(rank) for rank in range(4)] == [0] * 4


@pytest.mark.parametrize("name", ["star-4", "mesh-4", "star-4:4MB,4MB,4MB,1MB"])
def test_between_hosts(gangs, name):
    """Where links are known: another forest, small chunks, some on their way ahead of others."""
    cluster, total = preset(name), 7

    def work(rank, links, say):
        generator = torch.Generator().manual_seed(0)
        rows = [torch.randn(600_000, generator=generator) for _ in range(total)]
        block, plan, nodes, leaves_ = parts(total, rank, 4)
        group = Group(rank, links_over(rank, links), timeout=DEADLINE, cluster=cluster)
        forest, why = choose_forest("auto", 4, cluster)
        assert "memory" not in why
        exchange = Exchange(lay_out(rows[:1]), nodes, leaves_, group, CPU, forest)
        local = LocalSum(plan, exchange.outputs)
        for _ in range(2):
            for leaf, index in enumerate(range(*block)):
                local.push(leaf, [0], [rows[index].clone()])
            exchange.announce(0)
            exchange.finish(b"")
            assert bits(exchange.totals[0]) == bits(tree(rows))
            local.clear()
        group.close()

    gang = gangs(4, work)
    assert [gang.wait(rank) for rank in range(4)] == [0] * 4


def test_totals_are_private(gangs):
    """What one worker does to its totals, nobody else sees: optimizers write into gradients."""

    def work(rank, links, say):
        for step, totals in enumerate(take_part(rank, links, 4, 4, 64)):
            expected = [tree([row[item] for row in values(4, step)]) for item in range(len(SHAPES))]
            assert [bits(t) for t in totals] == [bits(e) for e in expected]
            for tensor in totals:
                tensor.fill_(rank - 1e6)

    gang = gangs(2, work)
    assert [gang.wait(rank) for rank in range(2)] == [0, 0]


def test_blocks_summed_left_to_right(gangs):
    """`reproducible=False`: one sum per worker, whatever its share."""
    world, total = 3, 8

    def work(rank, links, say):
        rows = values(total, 0)
        block, plan, nodes, tree_leaves = parts(total, rank, world, reproducible=False)
        layout = lay_out(rows[0])
        exchange = Exchange(layout, nodes, tree_leaves, joined(rank, links), CPU, choose_forest("auto", world)[0])
        local = LocalSum(plan, exchange.outputs)
        for leaf, index in enumerate(range(*block)):
            local.push(leaf, range(len(SHAPES)), [tensor.clone() for tensor in rows[index]])
        for bucket in range(len(layout.buckets)):
            exchange.announce(bucket)
        exchange.finish(b"")
        for item in range(len(SHAPES)):
            sums = []
            for b in assign_blocks(total, world):
                part = rows[b.start][item]
                for index in range(b.start + 1, b.stop):
                    part = part + rows[index][item]
                sums.append(part)
            assert bits(exchange.totals[item]) == bits(tree(sums))
        exchange.group.close()

    gang = gangs(world, work)
    assert [gang.wait(rank) for rank in range(world)] == [0] * world


@pytest.mark.parametrize("dies", [0, 2])
@pytest.mark.parametrize("at_bucket", [0, 2])
def test_a_worker_that_dies_in_a_step_is_named_to_the_others(gangs, dies, at_bucket):
    world, survivors = 3, [rank for rank in range(3) if rank != dies]

    def work(rank, links, say):
        def perhaps_die(step, bucket):
            if (rank, step, bucket) == (dies, 1, at_bucket):
                os.kill(os.getpid(), signal.SIGKILL)

        kept = [link and link.dup() for link in links]  # survivors leave only when both have noticed
        try:
            for _ in take_part(rank, links, 6, 3, 64, before_announce=perhaps_die):
                pass
        except PeerLostError as error:
            say(f"{error}")
            signal.pause()
        del kept

    gang = gangs(world, work)
    for rank in survivors:
        assert gang.hear(rank).startswith(f"rank {dies} was lost ")
    assert gang.wait(dies) == -signal.SIGKILL


def test_a_worker_that_leaves_is_a_lost_worker_too(gangs):
    def work(rank, links, say):
        if rank == 1:
            block, plan, nodes, total = parts(4, 1, 2)
            forest = choose_forest("auto", 2)[0]
            exchange = Exchange(lay_out(values(1, 0)[0]), nodes, total, joined(1, links), CPU, forest)
            exchange.group.close()
            say("closed")
            signal.pause()
        try:
            for _ in take_part(rank, links, 4, 1, 64):
                pass
        except PeerLostError as error:
            assert error.rank == 1
            say(str(error))

    gang = gangs(2, work)
    assert gang.hear(0).startswith("rank 1 ")
    assert gang.wait(0) == 0
