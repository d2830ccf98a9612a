"""The gradient of a step: the tree's sum over micro-batches, alone and in a gang, and what is refused."""

import socket
import threading

import pytest
import torch
from deadlines import DEADLINE
from torch import nn
from torch.utils.checkpoint import checkpoint

from manyhands.errors import UserError
from manyhands.sync import AllReduce, Task
from manyhands.training.steps.gradients import Gradients
from manyhands.transport import Group, PeerLostError, links_over

CUTS = 6


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first = nn.Linear(4, 8)
        self.norm = nn.BatchNorm1d(8)
        self.narrow = nn.Linear(8, 8).bfloat16()
        self.last = nn.Linear(8, 2)
        self.sometimes = nn.Parameter(torch.ones(3))
        self.never = nn.Parameter(torch.ones(3))
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))

    def forward(self, x, index):
        hidden = self.norm(self.first(x))
        out = self.last(self.narrow(hidden.bfloat16()).float() + hidden)
        return out * self.sometimes.sum() if index == 2 else out


def alone(cuts: int = CUTS) -> AllReduce:
    return AllReduce(Task(cuts, True), None)


def in_gang(group, cuts: int = CUTS, reproducible: bool = True) -> AllReduce:
    return AllReduce(Task(cuts, reproducible), group)


def loss_of(model, step: int, index: int) -> torch.Tensor:
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(100 * step + index))
    return model(x, index).square().mean() / CUTS


def tree(parts):
    """The aligned binary tree, by recursion."""
    if len(parts) == 1:
        return parts[0]
    half = 1 << (len(parts) - 1).bit_length() - 1
    return tree(parts[:half]) + tree(parts[half:])


def raw(tensor):
    return None if tensor is None else (tensor.dtype, tensor.reshape(-1).contiguous().view(torch.uint8).tolist())


def expected(step: int) -> dict[str, tuple | None]:
    """Gradients by the definition, of the model as it begins."""
    rows = []
    for index in range(CUTS):
        model = Net()
        loss_of(model, step, index).backward()
        rows.append({name: p.grad for name, p in model.named_parameters()})
    result = {}
    for name, parameter in Net().named_parameters():
        column = [row[name] for row in rows]
        if all(gradient is None for gradient in column):
            result[name] = None
        else:
            result[name] = raw(tree([torch.zeros_like(parameter) if g is None else g for g in column]))
    return result


def compute(model, gradients: Gradients, step: int, flag: int = 0):
    gradients.begin_step()
    losses = []
    for index in range(*gradients.block):
        gradients.begin_micro_batch(index)
        loss = loss_of(model, step, index)
        loss.backward()
        gradients.end_micro_batch(index)
        losses.append(float(loss.detach()))
    return gradients.finish(losses, flag)


def gradients_of(model) -> dict[str, tuple | None]:
    return {name: raw(parameter.grad) for name, parameter in model.named_parameters()}


def gang(world: int, work) -> list:
    """Run `work(rank, group)` in threads; the results or exceptions."""
    links = [[None] * world for _ in range(world)]
    for low in range(world):
        for high in range(low + 1, world):
            links[low][high], links[high][low] = socket.socketpair()
    results = [None] * world

    def be(rank):
        try:
            results[rank] = work(rank, Group(rank, links_over(rank, links[rank]), timeout=DEADLINE))
        except Exception as error:
            results[rank] = error

    threads = [threading.Thread(target=be, args=(rank,), daemon=True) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * DEADLINE)
        assert not thread.is_alive(), "the gang hangs"
    for row in links:
        for link in row:
            if link is not None:
                link.close()
    return results


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_alone_it_is_the_tree_over_the_micro_batches():
    model = Net()
    gradients = Gradients(model, alone())
    for step in range(2):
        model.load_state_dict(Net().state_dict())
        finished = compute(model, gradients, step, flag=3)
        assert gradients_of(model) == expected(step)
        assert len(finished.losses) == CUTS and finished.flags == [3]
    assert model.never.grad is None and model.frozen.grad is None and model.sometimes.grad is not None


@pytest.mark.parametrize("world", [2, 3, 4])
def test_in_a_gang_every_worker_has_the_same_bits(world):
    definition = [expected(step) for step in range(3)]

    def work(rank, group):
        model = Net()
        gradients = Gradients(model, policy := in_gang(group))
        taken = []
        for step in range(3):
            model.load_state_dict(Net().state_dict())
            finished = compute(model, gradients, step, flag=rank)
            assert finished.flags == list(range(world))
            taken.append((gradients_of(model), finished.losses, {n: raw(b) for n, b in model.named_buffers()}))
        gradients.close(), policy.close()
        return taken

    lone = Net()
    single = Gradients(lone, alone())
    results = gang(world, work)
    for step in range(3):
        lone.load_state_dict(Net().state_dict())
        finished = compute(lone, single, step)
        buffers = {name: raw(buffer) for name, buffer in lone.named_buffers()}
        for result in results:
            assert not isinstance(result, Exception), result
            assert result[step] == (definition[step], finished.losses, buffers)


def test_gradients_are_row_major_whatever_autograd_made():
    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.arange(6.0).view(3, 2).t())  # autograd keeps a parameter's own layout

    model = Turned()
    gradients = Gradients(model, alone(1))
    gradients.begin_step()
    gradients.begin_micro_batch(0)
    (model.w.t() @ torch.ones(2, 4)).square().mean().backward()
    gradients.end_micro_batch(0)
    gradients.finish([0.0], 0)
    assert model.w.grad.is_contiguous()


def test_without_the_guarantee_the_sum_is_the_same_up_to_rounding():
    def work(rank, group):
        model = Net()
        gradients = Gradients(model, policy := in_gang(group, reproducible=False))
        compute(model, gradients, 0)
        gradients.close(), policy.close()
        return {name: parameter.grad for name, parameter in model.named_parameters()}

    model = Net()
    compute(model, Gradients(model, alone()), 0)
    first, second = gang(2, work)
    for name, parameter in model.named_parameters():
        assert raw(first[name]) == raw(second[name]), name
        if parameter.grad is not None:
            tolerance = (
                {"rtol": 0.1, "atol": 0.05} if parameter.dtype is torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-5}
            )
            torch.testing.assert_close(first[name], parameter.grad, **tolerance)


def test_a_lost_peer_leaves_no_gradients_and_the_buffers_of_the_steps_start():
    def work(rank, group):
        model = Net()
        gradients = Gradients(model, policy := in_gang(group))
        compute(model, gradients, 0)
        buffers = {name: raw(buffer) for name, buffer in model.named_buffers()}
        if rank == 1:
            gradients.close(), policy.close()
            return None
        try:
            compute(model, gradients, 1)
        except PeerLostError as error:
            gradients.abandon()
            assert error.rank == 1
            assert all(parameter.grad is None for parameter in model.parameters())
            assert {name: raw(buffer) for name, buffer in model.named_buffers()} == buffers
            gradients.close(), policy.close()
            return "noticed"
        raise AssertionError("the peer was not missed")

    assert gang(2, work) == ["noticed", None]


def test_a_step_given_up_in_a_forward_pass_leaves_no_trace():
    model = Net()
    gradients = Gradients(model, alone())
    compute(model, gradients, 0)
    buffers = {name: raw(buffer) for name, buffer in model.named_buffers()}
    gradients.begin_step()
    gradients.begin_micro_batch(0)
    loss_of(model, 1, 0).backward()
    gradients.end_micro_batch(0)
    gradients.begin_micro_batch(1)
    loss_of(model, 1, 1).backward()
    assert {name: raw(buffer) for name, buffer in model.named_buffers()} != buffers
    gradients.abandon()
    assert {name: raw(buffer) for name, buffer in model.named_buffers()} == buffers
    assert all(parameter.grad is None for parameter in model.parameters())
    model.load_state_dict(Net().state_dict())
    compute(model, gradients, 1)
    assert gradients_of(model) == expected(1)


def test_the_hooks_go_when_the_gang_is_left():
    def work(rank, group):
        model = Net()
        gradients = Gradients(model, policy := in_gang(group))
        compute(model, gradients, 0)
        gradients.close(), policy.close()
        assert all(not p._post_accumulate_grad_hooks for p in model.parameters() if p.requires_grad)
        compute(model, Gradients(model, alone()), 0)
        return "done"

    assert gang(2, work) == ["done", "done"]


def test_sparse_gradients_are_refused_by_name():
    model = nn.Sequential(nn.Embedding(5, 2, sparse=True))
    gradients = Gradients(model, alone(1))
    gradients.begin_step()
    gradients.begin_micro_batch(0)
    model(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(UserError, match=r"0\.weight has a sparse gradient.*sparse=False"):
        gradients.end_micro_batch(0)


def reentrant(rank, group, use_reentrant: bool):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x):
            for _ in range(2):
                x = checkpoint(self.layer, x, use_reentrant=use_reentrant)
            return x

    model = Twice()
    gradients = Gradients(model, policy := in_gang(group, 2))
    try:
        gradients.begin_step()
        gradients.begin_micro_batch(rank)
        model(torch.ones(1, 2, requires_grad=True)).sum().backward()
        gradients.end_micro_batch(rank)
        gradients.finish([0.0], 0)
        return "done"
    finally:
        gradients.close(), policy.close()


def test_gradients_that_come_twice_are_refused_by_name():
    for error in gang(2, lambda rank, group: reentrant(rank, group, True)):
        assert isinstance(error, UserError)
        assert "layer." in str(error) and "use_reentrant=False" in str(error)
    assert gang(2, lambda rank, group: reentrant(rank, group, False)) == ["done", "done"]
