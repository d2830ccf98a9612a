"""DistributedDataParallel in its ways of use: the same training over this backend and over gloo."""

from contextlib import nullcontext

import pytest
import torch
import torch.distributed as dist
import torch.distributed.algorithms.ddp_comm_hooks.default_hooks as hooks
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook as power
from torch.distributed.algorithms.join import Join
from torch.nn.parallel import DistributedDataParallel
from torch_gang import gloo


class Net(nn.Module):
    """Layers of several dtypes' worth of parameters, a buffer, and a branch that a rank may leave out."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(10, 40), nn.BatchNorm1d(40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU())
        self.branch = nn.Linear(40, 40)
        self.head = nn.Linear(40, 3)

    def forward(self, x, branch=True):
        x = self.body(x)
        return self.head(self.branch(x) if branch else x)


def batches(count, seed):
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(8, 10, generator=generator), torch.randn(8, 3, generator=generator)) for _ in range(count)]


def trained(
    group, steps=4, branch=lambda step: True, accumulate=1, prepare=None, network=Net, bucket_cap_mb=0.005, **options
):
    """The parameters and buffers after a few steps."""
    torch.manual_seed(dist.get_rank())  # ranks begin apart: DDP has to make them equal
    model = DistributedDataParallel(network(), process_group=group, bucket_cap_mb=bucket_cap_mb, **options)
    if prepare is not None:
        prepare(model, group)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for step, (x, y) in enumerate(batches(steps, 100 + dist.get_rank())):
        last = step % accumulate == accumulate - 1
        with nullcontext() if last else model.no_sync():
            (model(x, branch(step)) - y).square().mean().backward()
        if last:
            optimizer.step()
            optimizer.zero_grad()
    return model.module.state_dict()


def assert_alike(first, second, tolerance=1e-5):
    assert first.keys() == second.keys()
    for name in first:
        assert torch.allclose(first[name], second[name], rtol=tolerance, atol=tolerance), name


def assert_ranks_agree(state):
    """Parameters only: every rank has its own running statistics between two forward passes."""
    for name, tensor in state.items():
        if "running" not in name and "num_batches" not in name:
            highest, lowest = tensor.clone(), tensor.clone()
            dist.all_reduce(highest, dist.ReduceOp.MAX)
            dist.all_reduce(lowest, dist.ReduceOp.MIN)
            assert torch.equal(highest, lowest), name


def check(**options):
    ours, theirs = trained(None, **options), trained(gloo(), **options)
    assert_ranks_agree(ours)
    assert_alike(ours, theirs)


def check_plain():
    check()
    check(gradient_as_bucket_view=True)
    check(broadcast_buffers=False)
    check(init_sync=True, static_graph=True)


def check_no_sync():
    check(accumulate=2)
    check(accumulate=2, gradient_as_bucket_view=True, steps=6)


def check_unused_parameters():
    """A branch that some ranks use in some steps."""
    rank = dist.get_rank()
    check(find_unused_parameters=True, branch=lambda step: (step + rank) % 2 == 0)
    check(find_unused_parameters=True, branch=lambda step: False)


def check_hooks():
    check(prepare=lambda model, group: model.register_comm_hook(group, hooks.allreduce_hook))
    halves = lambda model, group: model.register_comm_hook(group, hooks.fp16_compress_hook)  # noqa: E731
    assert_alike(trained(None, prepare=halves), trained(gloo(), prepare=halves), 1e-2)


def check_sparse_gradients():
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(50, 6, sparse=True)
            self.head = nn.Linear(6, 3)

        def forward(self, x, _):
            return self.head(self.embedding((x.abs() * 10).long().clamp(max=49)).mean(1))

    def train(group):
        torch.manual_seed(0)
        model = DistributedDataParallel(Words(), process_group=group)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for x, y in batches(4, dist.get_rank()):
            (model(x, True) - y).square().mean().backward()
            assert model.module.embedding.weight.grad.is_sparse
            optimizer.step()
            optimizer.zero_grad()
        return model.module.state_dict()

    ours = train(None)
    assert_ranks_agree(ours)
    assert_alike(ours, train(gloo()))


def check_power_sgd():
    """Its callbacks wait for collectives of their own."""

    def prepare(model, group):
        state = power.PowerSGDState(group, matrix_approximation_rank=2, start_powerSGD_iter=2, min_compression_rate=0.5)
        model.register_comm_hook(state, power.powerSGD_hook)

    # One bucket: with several, callbacks race with backward for the order of collectives, with gloo too.
    check(prepare=prepare, steps=6, bucket_cap_mb=25)


def check_synchronised_batch_norm():
    """SyncBatchNorm wants CUDA; its collective is an all_gather of uneven rows, as with uneven batches."""
    world, rank = dist.get_world_size(), dist.get_rank()
    outputs = [torch.zeros(peer + 1, 7) for peer in range(world)]
    dist.all_gather(outputs, torch.full((rank + 1, 7), float(rank)))
    assert all(output.eq(peer).all() for peer, output in enumerate(outputs))


def check_join():
    """Ranks with unequal numbers of batches."""

    def train(group):
        torch.manual_seed(0)
        model = DistributedDataParallel(nn.Linear(10, 3), process_group=group)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with Join([model]):
            for x, y in batches(2 + 2 * dist.get_rank(), dist.get_rank()):
                (model(x) - y).square().mean().backward()
                optimizer.step()
                optimizer.zero_grad()
        return model.module.state_dict()

    ours = train(None)
    assert_ranks_agree(ours)
    assert_alike(ours, train(gloo()))


def check_sharded_optimizer():
    from torch.distributed.optim import ZeroRedundancyOptimizer  # warns when it is imported

    def train(group):
        torch.manual_seed(0)
        model = DistributedDataParallel(Net(), process_group=group)
        optimizer = ZeroRedundancyOptimizer(model.parameters(), torch.optim.Adam, process_group=group, lr=0.01)
        for x, y in batches(3, dist.get_rank()):
            (model(x) - y).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        return model.module.state_dict()

    assert_alike(train(dist.distributed_c10d._get_default_group()), train(gloo()))


def check_mixed_dtypes():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.low = nn.Linear(10, 20, dtype=torch.bfloat16)
            self.high = nn.Linear(20, 3, dtype=torch.float64)

        def forward(self, x, _):
            return self.high(self.low(x.bfloat16()).double()).float()

    assert_alike(trained(None, network=Mixed), trained(gloo(), network=Mixed), 1e-2)


CHECKS = [
    check_plain,
    check_no_sync,
    check_unused_parameters,
    check_hooks,
    check_sparse_gradients,
    check_power_sgd,
    check_synchronised_batch_norm,
    check_join,
    check_sharded_optimizer,
    check_mixed_dtypes,
]


@pytest.mark.parametrize("check", CHECKS)
def test_ddp_of_two(pair, check):
    pair.run(check)


@pytest.mark.parametrize("check", [check_plain, check_unused_parameters, check_join])
def test_ddp_of_three(server, check):
    server.gang(3).run(check)
