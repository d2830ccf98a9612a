"""Buffers after a step, against the definition: start plus the mean change, counters as micro-batch 0 left them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from manyhands.errors import UserError
from manyhands.training.steps.buffers import BufferChanges

CUTS = 4


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.register_buffer("mask", torch.full((2, 2), -torch.inf).triu(1))
        self.register_buffer("special", torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 1e-45]))
        self.register_buffer("counter", torch.tensor([5, 6], dtype=torch.int16))
        self.register_buffer("flag", torch.tensor(False), persistent=False)
        self.register_buffer("nothing", None)
        self.register_buffer("empty", torch.empty(0))
        self.register_buffer("moving", torch.zeros(3))

    def forward(self, x):
        out = self.norm(x)
        self.moving = 0.5 * self.moving + 0.5 * x.detach().mean(0)  # a new tensor, not in place
        self.counter += int(x[0, 0] > 0) + 1
        self.flag = torch.tensor(True)
        return out


def batches(seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(6, 3, generator=generator) + index for index in range(CUTS)]


def tree(values):
    if len(values) == 1:
        return values[0]
    return tree(values[: len(values) // 2]) + tree(values[len(values) // 2 :])


def raw(tensor) -> list[int]:
    return tensor.reshape(-1).view(torch.uint8).tolist()


def same_value(a, b) -> bool:
    """Equal everywhere, NaN to NaN; the sign of a zero does not count."""
    return a.dtype is b.dtype and torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(7), b.nan_to_num(7))


def step(model, changes: BufferChanges, inputs) -> None:
    """A whole step by one worker."""
    changes.begin_step()
    rows = []
    for index, x in enumerate(inputs):
        model(x)
        rows.append(changes.after_micro_batch(index))
    changes.finish([tree(list(column)) for column in zip(*rows, strict=True)], changes.others)


def test_batch_norm_moves_by_the_mean_of_the_micro_batches_statistics():
    model = Net()
    step(model, BufferChanges(model, CUTS), batches())
    means = torch.stack([x.mean(0) for x in batches()])
    variances = torch.stack([x.var(0, unbiased=True) for x in batches()])
    torch.testing.assert_close(model.norm.running_mean, 0.9 * torch.zeros(3) + 0.1 * means.mean(0))
    torch.testing.assert_close(model.norm.running_var, 0.9 * torch.ones(3) + 0.1 * variances.mean(0))
    torch.testing.assert_close(model.moving, 0.5 * means.mean(0))
    assert model.norm.num_batches_tracked == 1


def test_the_bits_are_those_of_the_definition_over_several_steps():
    model, reference = Net(), Net()
    changes = BufferChanges(model, CUTS)
    floats = ["norm.running_mean", "norm.running_var", "moving"]
    for turn in range(3):
        step(model, changes, batches(turn))
        start = {name: buffer.clone() for name, buffer in reference.named_buffers()}
        after = []
        for x in batches(turn):
            for name, buffer in reference.named_buffers():
                buffer.copy_(start[name])
            reference(x)
            after.append({name: buffer.clone() for name, buffer in reference.named_buffers()})
        for name, buffer in reference.named_buffers():
            if name in floats:
                buffer.copy_(start[name] + tree([a[name] - start[name] for a in after]) / CUTS)
            else:
                buffer.copy_(after[0][name])
        here = dict(model.named_buffers())
        assert here.keys() == dict(reference.named_buffers()).keys()
        for name, buffer in reference.named_buffers():
            if name != "special":
                assert raw(here[name]) == raw(buffer), name


def test_what_nothing_changes_keeps_its_value():
    model = Net()
    for turn in range(3):
        step(model, BufferChanges(model, CUTS), batches(turn))
    assert same_value(model.mask, Net().mask) and same_value(model.special, Net().special)


class Lazy(nn.Module):
    """Fills a mask when it is first used."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mask", torch.zeros(3))

    def forward(self, x):
        self.mask[1:] = -torch.inf
        return x


@pytest.mark.parametrize("regroup", [False, True], ids=["one gang", "a new gang every step"])
def test_a_mask_that_is_filled_in_the_first_step_stays(regroup):
    model = Lazy()
    changes = BufferChanges(model, CUTS)
    for turn in range(3):
        step(model, changes, batches(turn))
        assert model.mask.tolist() == [0.0, -torch.inf, -torch.inf], turn
        if regroup:
            changes = BufferChanges(model, CUTS)


def test_counters_and_flags_are_as_the_first_micro_batch_left_them():
    model = Net()
    inputs = batches()
    inputs[0][0, 0], inputs[1][0, 0] = 1.0, -1.0
    step(model, BufferChanges(model, CUTS), inputs)
    assert model.counter.tolist() == [7, 8] and model.counter.dtype is torch.int16
    assert model.flag.item() is True
    inputs[0][0, 0] = -1.0
    step(model, BufferChanges(model, CUTS), inputs)
    assert model.counter.tolist() == [8, 9]


def test_every_micro_batch_starts_from_the_steps_start():
    model = Net()
    changes = BufferChanges(model, CUTS)
    changes.begin_step()
    before = {name: raw(buffer) for name, buffer in model.named_buffers()}
    for index, x in enumerate(batches()):
        model(x)
        assert raw(model.moving) != before["moving"]
        changes.after_micro_batch(index)
        assert {name: raw(buffer) for name, buffer in model.named_buffers()} == before


def test_the_buffers_stay_the_same_objects():
    model = Net()
    objects = {name: id(buffer) for name, buffer in model.named_buffers()}
    step(model, BufferChanges(model, CUTS), batches())
    assert {name: id(buffer) for name, buffer in model.named_buffers()} == objects


def test_another_workers_first_micro_batch_decides_about_the_counters():
    """Worker 1 computes micro-batches 2 and 3 and is told what micro-batch 0 did."""
    first, second = Net(), Net()
    inputs = batches()
    sums, others = None, {}
    workers = [(first, BufferChanges(first, CUTS), [0, 1]), (second, BufferChanges(second, CUTS), [2, 3])]
    parts = []
    for model, changes, block in workers:
        changes.begin_step()
        rows = []
        for index in block:
            model(inputs[index])
            rows.append(changes.after_micro_batch(index))
        parts.append([a + b for a, b in zip(*rows, strict=True)])
        others = others or changes.others
    sums = [a + b for a, b in zip(*parts, strict=True)]
    assert workers[1][1].others == {}
    for _, changes, _ in workers:
        changes.finish([total.clone() for total in sums], others)
    alone = Net()
    step(alone, BufferChanges(alone, CUTS), inputs)
    for name, buffer in alone.named_buffers():
        assert raw(dict(first.named_buffers())[name]) == raw(dict(second.named_buffers())[name]) == raw(buffer), name


def test_an_abandoned_step_leaves_no_trace():
    model = Net()
    changes = BufferChanges(model, CUTS)
    step(model, changes, batches())
    before = {name: raw(buffer) for name, buffer in model.named_buffers()}
    changes.begin_step()
    model(batches(1)[0])
    changes.after_micro_batch(0)
    model(batches(1)[1])
    changes.abandon()
    assert {name: raw(buffer) for name, buffer in model.named_buffers()} == before


def test_with_one_micro_batch_it_is_plain_pytorch():
    model, plain = Net(), Net()
    changes = BufferChanges(model, 1)
    for turn in range(2):
        changes.begin_step()
        model(batches(turn)[0])
        assert changes.after_micro_batch(0) == []
        changes.finish([], changes.others)
        plain(batches(turn)[0])
    for (name, buffer), (_, expected) in zip(model.named_buffers(), plain.named_buffers(), strict=True):
        assert raw(buffer) == raw(expected), name


def test_a_shared_buffer_is_watched_once():
    model = nn.Module()
    model.a, model.b = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    model.b.running_mean = model.a.running_mean
    assert len(BufferChanges(model, 2).floats) == 3


@pytest.mark.parametrize(
    ("becomes", "words"),
    [
        (torch.zeros(4), ["torch.float32 (4,)"]),
        (torch.zeros(3, dtype=torch.float64), ["torch.float64 (3,)"]),
        (None, ["None"]),
    ],
)
def test_buffers_that_change_their_kind_are_named(becomes, words):
    model = Net()
    changes = BufferChanges(model, CUTS)
    changes.begin_step()
    model.norm.running_mean = becomes
    with pytest.raises(UserError) as error:
        changes.after_micro_batch(0)
    for word in ["norm.running_mean", "torch.float32 (3,)", "plain attribute", *words]:
        assert word in str(error.value)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(width=32), min_size=1, max_size=6))
def test_any_value_survives_a_step_that_does_not_touch_it(values):
    model = nn.Module()
    model.register_buffer("kept", torch.tensor(values))
    before = model.kept.clone()
    changes = BufferChanges(model, 2)
    changes.begin_step()
    first, second = changes.after_micro_batch(0), changes.after_micro_batch(1)
    changes.finish([a + b for a, b in zip(first, second, strict=True)], changes.others)
    assert same_value(model.kept, before)
