"""Local steps: against a simulation in one process, what travels, and going on from a snapshot."""

import copy

import pytest
import torch
from gangs import trained
from torch import nn

from manyhands import Job, Plan, Trainer
from manyhands.training.cursor import sample_indices

SIZE, CUTS, FEATURES = 2, 6, 300
"""A micro-batch; micro-batches of a batch; enough weights for an int8 block and a bit."""


class Pairs:
    def __init__(self, samples: int = 60):
        self.x = torch.randn(samples, FEATURES, generator=torch.Generator().manual_seed(1))

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index], self.x[index, :3].sum()


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 4), nn.BatchNorm1d(4), nn.Linear(4, 1), nn.Flatten(0))


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 4), nn.Tanh(), nn.Linear(4, 1), nn.Flatten(0))


def job(**changes) -> Job:
    settings = {
        "model": plain,
        "data": Pairs,
        "loss": nn.functional.mse_loss,
        "optimizer": lambda params: torch.optim.AdamW(params, lr=0.01),
        "batch_size": SIZE * CUTS,
        "micro_batches": CUTS,
        "steps": 12,
    }
    return Job(**settings | changes)


def weights(result) -> torch.Tensor:
    (state, _) = result
    return torch.cat([value.double().reshape(-1) for value in state["model"].values()])


def simulated(job, blocks, every, outer=None) -> torch.Tensor:
    """The definition: each worker alone on its block of every batch, in fp64 averages, weighted by block."""
    begun = Trainer(job, device="cpu")
    start = [p.detach().clone() for p in begun.model.parameters()]
    if outer:
        lr, momentum, nesterov = outer
        velocity = [torch.zeros_like(p) for p in start]
    models = [copy.deepcopy(begun.model) for _ in blocks]
    optimizers = [job.optimizer(m.parameters()) for m in models]
    data = Pairs()
    shares = [len(block) / job.micro_batches for block in blocks]
    for step in range(job.steps):
        for net, optimizer, block in zip(models, optimizers, blocks, strict=True):
            at = [i for m in block for i in sample_indices(job.seed, len(data), step * job.batch_size + m * SIZE, SIZE)]
            optimizer.zero_grad()
            job.loss(net(torch.stack([data[i][0] for i in at])), torch.stack([data[i][1] for i in at])).backward()
            optimizer.step()
        if (step + 1) % every == 0 or step + 1 == job.steps:
            columns = zip(*(m.parameters() for m in models), strict=True)
            means = [sum(s * p.detach() for s, p in zip(shares, column, strict=True)) for column in columns]
            if outer:
                for i, mean in enumerate(means):
                    gradient = start[i] - mean
                    velocity[i] = momentum * velocity[i] + gradient
                    means[i] = start[i] - lr * (gradient + momentum * velocity[i] if nesterov else velocity[i])
            start = [mean.clone() for mean in means]
            for net in models:
                for p, mean in zip(net.parameters(), means, strict=True):
                    p.data.copy_(mean)
    return torch.cat([p.double().reshape(-1) for p in start])


@pytest.mark.parametrize(
    ("sync", "every", "outer"),
    [
        ("local,every=4", 4, None),
        ("local,every=5", 5, None),
        ("local,every=3,outer=nesterov,outer_lr=0.5", 3, (0.5, 0.9, True)),
        ("local,every=4,outer=sgd,outer_momentum=0", 4, (0.7, 0.0, False)),
    ],
)
@pytest.mark.parametrize("blocks", [[range(6)], [range(3), range(3, 6)], [range(2), range(2, 4), range(4, 6)]])
def test_it_is_the_definition(sync, every, outer, blocks):
    results = trained(job(), Plan(workers=len(blocks), sync=sync))
    expected = simulated(job(), blocks, every, outer)
    for result in results:
        assert torch.equal(weights(result), weights(results[0]))
        torch.testing.assert_close(weights(result), expected, rtol=0, atol=2e-5)


def test_uneven_blocks_are_weighted():
    """Four workers share six micro-batches; with plain SGD and a round of one step that is all-reduce."""
    sgd = job(optimizer=lambda params: torch.optim.SGD(params, lr=0.05), micro_batches=6)
    ours = trained(sgd, Plan(workers=4, sync="local,every=1"))
    theirs = trained(sgd, Plan(workers=1))
    torch.testing.assert_close(weights(ours[0]), weights(theirs[0]), rtol=0, atol=2e-6)
    for mine, other in zip(ours[0][1], theirs[0][1], strict=True):
        assert mine[:4] == other[:4]  # the same samples
        assert mine.loss == pytest.approx(other.loss, rel=1e-4)


@pytest.mark.parametrize("wire", ["bf16", "int8"])
def test_what_a_wire_format_loses_is_made_up_for(wire):
    exact = trained(job(steps=48), Plan(workers=2, sync="local,every=4"))
    lossy = trained(job(steps=48), Plan(workers=2, sync=f"local,every=4,wire={wire}"))
    assert torch.equal(weights(lossy[0]), weights(lossy[1]))
    moved = (weights(exact[0]) - weights(trained(job(), Plan(), steps=0)[0])).norm()
    assert 0 < (weights(lossy[0]) - weights(exact[0])).norm() < 0.02 * moved


@pytest.mark.parametrize("sync", ["local,every=3", "local,every=3,outer=nesterov,wire=int8"])
def test_going_on_from_a_snapshot_gives_the_same_bits(sync):
    bumpy = job(model=model, clip_grad_norm=1.0)
    straight = trained(bumpy, Plan(workers=2, sync=sync))
    half = trained(bumpy, Plan(workers=2, sync=sync), steps=6, ask=lambda t: copy.deepcopy(t.capture()))
    resumed = trained(bumpy, Plan(workers=2, sync=sync), half[0][0])
    assert torch.equal(weights(resumed[0]), weights(straight[0]))
    assert resumed[0][1] == straight[0][1][6:]
    others = trained(bumpy, Plan(workers=3, sync=sync), half[0][0])  # another gang takes it up, too
    assert torch.equal(weights(others[0]), weights(others[2]))
    alone = trained(bumpy, Plan(), half[0][0])
    assert alone[0][1][-1].step == 12


def test_a_round_ends_with_the_job():
    steps = trained(job(steps=7), Plan(workers=2, sync="local,every=4"))[0][1]
    assert [step.step for step in steps] == list(range(1, 8))
    assert [len(step.flags) for step in steps] == [0, 0, 0, 2, 0, 0, 2]
