"""Going on from a captured state is the same as never having stopped; another model's state is refused."""

import hashlib
import struct

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from manyhands.errors import UserError
from manyhands.state import Image, bit_sum, capture, check_same_model, read_image, restore, state_bytes, weights_sha256


class Model(nn.Module):
    """Batch norm, a tied weight, a buffer outside of the state dict, and odd shapes."""

    def __init__(self, seed: int = 0, width: int = 5):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.first = nn.Linear(3, width)
        self.norm = nn.BatchNorm1d(width)
        self.last = nn.Linear(width, width)
        self.tied = self.last
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("average", torch.zeros(width), persistent=False)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))

    def forward(self, x):
        hidden = self.norm(self.first(x)) * self.scale
        self.calls += 1
        with torch.no_grad():
            self.average.lerp_(hidden.mean(0), 0.1)
        return self.last(hidden) + self.average


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "plain sgd": lambda p: torch.optim.SGD(p, lr=0.05),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True),
    "adam, foreach": lambda p: torch.optim.Adam(p, lr=0.01, foreach=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
    "two groups": lambda p: torch.optim.AdamW([{"params": [q], "lr": 0.01 / (i + 1)} for i, q in enumerate(p)]),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05),
}
SCHEDULERS = {
    "none": lambda o: None,
    "step": lambda o: lr_scheduler.StepLR(o, 2, 0.5),
    "milestones": lambda o: lr_scheduler.MultiStepLR(o, [2, 4, 4, 6], 0.5),
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=40, cycle_momentum=False),
    "cosine": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda step: 0.9**step),
    "chain": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=3), lr_scheduler.ExponentialLR(o, 0.9)], [3]
    ),
}


def train(model, optimizer, scheduler, first: int, last: int) -> None:
    for step in range(first, last):
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()


def make(optimizer: str, scheduler: str, seed: int = 0):
    model = Model(seed)
    optim = OPTIMIZERS[optimizer](model.parameters())
    return model, optim, SCHEDULERS[scheduler](optim)


def through_bytes(tree):
    image = Image(tree)
    target = bytearray(image.length)
    image.write(memoryview(target))
    return target


def everything(model) -> dict[str, tuple]:
    named = {**model.state_dict(), **dict(model.named_buffers())}
    return {n: (t.dtype, t.shape, t.reshape(-1).contiguous().view(torch.uint8).tolist()) for n, t in named.items()}


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_schedulers_go_on(optimizer, scheduler):
    goes_on(optimizer, scheduler)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_optimizers_go_on(optimizer):
    goes_on(optimizer, "step")


def goes_on(optimizer: str, scheduler: str) -> None:
    whole = make(optimizer, scheduler)
    train(*whole, 0, 12)

    stopped = make(optimizer, scheduler)
    train(*stopped, 0, 5)
    data = through_bytes(capture(*stopped, 5))
    other = make(optimizer, scheduler, seed=99)
    train(*other, 50, 52)  # it has a past of its own
    tree, _ = read_image(memoryview(data))
    assert restore(tree, *other) == 5
    del tree
    data[:] = bytes(len(data))  # the slot is overwritten: nothing may look into it any more
    train(*other, 5, 12)

    assert everything(other[0]) == everything(whole[0])
    assert [g["lr"] for g in other[1].param_groups] == [g["lr"] for g in whole[1].param_groups]
    assert weights_sha256(other[0]) == weights_sha256(whole[0])


def test_a_fresh_state_restores_to_a_fresh_state():
    model, optimizer, scheduler = make("adamw", "step")
    data = through_bytes(capture(model, optimizer, scheduler, 0))
    train(model, optimizer, scheduler, 0, 3)
    assert restore(read_image(memoryview(data))[0], model, optimizer, scheduler) == 0
    assert everything(model) == everything(Model())
    assert optimizer.state_dict()["state"] == {}


def test_restoring_is_in_place():
    model, optimizer, _ = make("sgd", "none")
    parameters = list(model.parameters())
    buffers = list(model.buffers())
    restore(read_image(memoryview(through_bytes(capture(model, optimizer, None, 1))))[0], model, optimizer, None)
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert all(a is b for a, b in zip(buffers, model.buffers(), strict=True))
    assert model.tied.weight is model.last.weight


class Renamed(Model):
    def __init__(self):
        super().__init__()
        self.second = self.first
        del self.first


class Half(Model):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(self.scale.detach().half())


class MoreBuffers(Model):
    def __init__(self):
        super().__init__()
        self.register_buffer("history", torch.zeros(3), persistent=False)


class OtherBuffer(Model):
    def __init__(self):
        super().__init__()
        self.register_buffer("average", torch.zeros(2), persistent=False)


@pytest.mark.parametrize(
    ("saved", "here", "words"),
    [
        (Model, lambda: Model(width=4), ["torch.float32 (5, 3) in the checkpoint", "(4, 3) in the model"]),
        (Model, Renamed, ["second.weight is missing from the checkpoint", "second.bias is missing"]),
        (Renamed, Model, ["first.weight is missing", "more)"]),
        (Model, Half, ["scale is torch.float32 ()", "torch.float16 ()"]),
        (MoreBuffers, Model, ["history"]),
        (Model, OtherBuffer, ["average"]),
    ],
)
def test_another_models_state_is_refused_by_name_and_changes_nothing(saved, here, words):
    source, target = saved(), here()
    with torch.no_grad():
        for parameter in source.parameters():
            parameter += 1
    tree = capture(source, torch.optim.SGD(source.parameters(), lr=0.1), None, 7)
    optimizer = torch.optim.SGD(target.parameters(), lr=0.5)
    before = everything(target)
    with pytest.raises(UserError) as error:
        restore(tree, target, optimizer, None)
    for word in [*words, "another model", "Resume with the job file"]:
        assert word in str(error.value)
    assert everything(target) == before
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_the_same_model_is_accepted():
    model = Model()
    check_same_model({**dict(model.named_buffers()), **model.state_dict()}, Model(seed=5))


def test_the_digest_is_what_its_specification_says():
    model = Model()
    model.register_buffer("mask", torch.tensor([True, False]))
    model.register_buffer("empty", torch.empty(0, 2))
    model.register_buffer("brain", torch.tensor([1.5, -2.0], dtype=torch.bfloat16))
    model.register_buffer("turned", torch.arange(6.0).view(2, 3).t())
    state = model.state_dict()
    text = b""
    for name in sorted(state):
        value = state[name]
        text += f"{name} {value.dtype} {tuple(value.shape)}\n".encode()
        rows = value.reshape(-1).tolist()
        match value.dtype:
            case torch.float32:
                text += struct.pack(f"<{len(rows)}f", *rows)
            case torch.int64:
                text += struct.pack(f"<{len(rows)}q", *rows)
            case torch.bool:
                text += bytes(rows)
            case torch.bfloat16:  # the upper half of the float32
                text += b"".join(struct.pack("<f", row)[2:] for row in rows)
    assert weights_sha256(model) == hashlib.sha256(text).hexdigest()


def test_the_digest_sees_every_bit_and_every_name():
    digests = {weights_sha256(Model()), weights_sha256(Renamed()), weights_sha256(Half())}
    for name in Model().state_dict():
        model = Model()
        flat = model.state_dict()[name].view(-1).view(torch.uint8)
        flat[-1] ^= 1
        digests.add(weights_sha256(model))
    assert len(digests) == 3 + len(Model().state_dict()) - 2  # the tied weight and bias have two names each


def test_the_quick_checksum_sees_every_tensor():
    expected = bit_sum(Model())
    assert bit_sum(Model()) == expected and 0 <= expected < 1 << 64
    for name in Model().state_dict():
        for byte in (0, -1):
            model = Model()
            model.state_dict()[name].view(-1).view(torch.uint8)[byte] ^= 1
            assert bit_sum(model) != expected, name


def test_the_quick_checksum_takes_weights_that_are_parts_of_a_larger_tensor():
    storage = torch.arange(7.0)
    model = nn.Module()
    model.part = nn.Parameter(storage[1:6])
    plain = nn.Module()
    plain.part = nn.Parameter(storage[1:6].clone())
    assert bit_sum(model) == bit_sum(plain)


def test_the_size_of_a_state_is_that_of_its_tensors():
    tree = {"a": torch.zeros(3, 5), "b": [torch.zeros(7, dtype=torch.int8), (torch.zeros(()).double(), 3, "x", None)]}
    assert state_bytes(tree) == 60 + 7 + 8
