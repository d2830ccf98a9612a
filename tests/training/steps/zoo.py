"""A zoo of small jobs, of the kinds that people write and that break when a model is split or replicated (test_zoo.py).

Many do something unusual only late (after some calls or steps) or rarely (for one sample of fifty), where a check
that trains two steps of two micro-batches does not meet it. What a job keeps outside of its model it makes anew with
every call of its factory, as a process does that loads a job file.
"""

from __future__ import annotations

import contextvars
import random
import threading
from collections import namedtuple
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from split_jobs import Chain, Data, evaluation, job, numbers, squares
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.checkpoint import checkpoint

from manyhands import Evaluation, Job
from manyhands.training.cursor import sample_indices

LATE = 36
"""Calls of a model after which something begins: in step 10 on one worker. A check, with what a pipeline records and
measures first, comes nowhere near."""
SAMPLES = 50


def _rare_samples() -> set[int]:
    """Two samples that training meets late in the first epoch, and an evaluation not at all."""
    late = (sample_indices(0, SAMPLES, position, 1)[0] for position in range(24, SAMPLES))
    return set([index for index in late if index >= 8][:2])


RARE = _rare_samples()


def rarely(generator: torch.Generator) -> tuple[Any, Any]:
    """Numbers, of which the first is large in the rare samples alone."""
    x, y = numbers(generator)
    x = x.clamp(-2.0, 2.0)
    if generator.initial_seed() in RARE:
        x[0] = 4.0
    return x, y


def is_rare(x: Tensor) -> bool:
    return bool(x.detach()[..., 0].max() > 3.0)


class Block(nn.Module):
    """A layer that knows how often it was called in training."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += self.training
        return self.change(torch.tanh(self.linear(x)))

    def change(self, x: Tensor) -> Tensor:
        return x

    @property
    def late(self) -> bool:
        return self.calls > LATE


class Stack(nn.Module):
    """Blocks one after another."""

    def __init__(self, block: Callable[[], nn.Module] = Block, count: int = 4) -> None:
        super().__init__()
        self.layers = nn.ModuleList(block() for _ in range(count))
        self.head = nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Any:
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


class Noticing(Stack):
    """Hands its layers, beside the value, the rows' first inputs, by which they know the rare samples."""

    def forward(self, x: Tensor) -> Any:
        mark = x[:, :1]
        for layer in self.layers:
            x = layer(x, mark)
        return self.head(x)


class Noticed(Block):
    """A layer of `Noticing`."""

    def forward(self, x: Tensor, mark: Tensor) -> Tensor:
        self.calls += self.training
        x = torch.tanh(self.linear(x))
        return self.rare(x) if is_rare(mark) else self.usual(x)

    def rare(self, x: Tensor) -> Tensor:
        return x * 2.0

    def usual(self, x: Tensor) -> Tensor:
        return x


def small(model: Callable[[], nn.Module] = Stack, **changes: Any) -> Job:
    settings: dict[str, Any] = {
        "optimizer": partial(AdamW, lr=0.02),
        "scheduler": None,
        "batch_size": 8,
        "micro_batches": 4,
        "clip_grad_norm": None,
    }
    return replace(job(model, numbers, squares, **settings), **changes)


def rare_job(model: Callable[[], nn.Module], **changes: Any) -> Job:
    data = {"data": lambda: Data(SAMPLES, rarely)}
    settings = {"evaluate": Evaluation(data=lambda: Data(8, rarely))} | data | changes
    return small(model, **settings)


# What begins late


class LateHalf(Block):
    """Halves its output from some call on."""

    def change(self, x: Tensor) -> Tensor:
        return x * 0.5 if self.late else x


class LateDropout(Block):
    """Its dropout begins after a while."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.0)

    def change(self, x: Tensor) -> Tensor:
        self.drop.p = 0.3 if self.late else 0.0
        return self.drop(x)


class LateSkip(Stack):
    """A buffer counts steps; from the fifth on there is a skip, put between layers by Python."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        late = self.steps.item() >= 4
        if self.training:
            self.steps += 1
        first = x = self.layers[0](x)
        for layer in self.layers[1:]:
            x = layer(x)
        return self.head(x + first if late else x)


class LateScale(Stack):
    """As a Python number that a buffer gives, for layers to be annealed by."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        scale = 1.0 if self.steps.item() < 4 else 0.5
        if self.training:
            self.steps += 1
        for layer in self.layers:
            x = layer(x) * scale
        return self.head(x)


class Annealed(Stack):
    """Annealed by a buffer, with tensors alone."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.steps += 1
        scale = 1.0 - 0.5 * (self.steps / 8).clamp(0.0, 1.0)
        for layer in self.layers:
            x = layer(x) * scale
        return self.head(x)


class TargetNetwork(Stack):
    """A slow copy takes the weights over after every 20 passes."""

    def __init__(self) -> None:
        super().__init__()
        self.slow = nn.Linear(6, 6).requires_grad_(False)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.calls += 1
            if self.calls % 20 == 0:
                self.slow.load_state_dict(self.layers[0].linear.state_dict())
        return super().forward(x + self.slow(x))


class Unfreezing(Stack):
    """Its first layer is frozen for some calls."""

    def __init__(self) -> None:
        super().__init__()
        self.layers[0].requires_grad_(False)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += self.training
        if self.calls == LATE:
            self.layers[0].requires_grad_(True)
        return super().forward(x)


class Growing(Stack):
    """Puts another layer in the place of one, late."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += self.training
        if self.calls == LATE:
            self.layers[1] = nn.Sequential(self.layers[1], nn.Tanh())
        return super().forward(x)


class Memo(Block):
    """Looks at its input for a statistic every 20 calls only, and keeps it."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: Any = 1.0

    def change(self, x: Tensor) -> Tensor:
        if self.training and self.calls % 20 == 0:
            self.kept = 1.0 + x.detach().abs().mean()
        return x * self.kept


class LateSum(Block):
    """Divides by a norm over features, late: what a split of features was not derived for."""

    def change(self, x: Tensor) -> Tensor:
        return x / x.norm(dim=-1, keepdim=True) if self.late else x


class Between(nn.Module):
    """Two projections with something between them, from the fifth step on, as a buffer counts them."""

    def __init__(self, what: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.up, self.down, self.what = nn.Linear(6, 8), nn.Linear(8, 6), what
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.steps += 1
        hidden = torch.tanh(self.up(x))
        return x + self.down(self.what(hidden) if self.steps > 4 else hidden)


def between(what: Callable[[Tensor], Tensor]) -> Job:
    return small(lambda: Stack(lambda: Between(what)))


def late_global() -> Job:
    """The first layer counts for all in a global."""
    state = {"calls": 0}

    class First(Block):
        def change(self, x: Tensor) -> Tensor:
            state["calls"] += self.training
            return x

    class Later(Block):
        def change(self, x: Tensor) -> Tensor:
            return x * 0.5 if state["calls"] > LATE else x

    def model() -> nn.Module:
        found = Stack(Later)
        found.layers[0] = First()
        return found

    return small(model)


def late_loss() -> Job:
    """A penalty that begins after some calls of the loss."""
    calls = [0]

    def loss(output: Tensor, target: Tensor) -> Tensor:
        calls[0] += torch.is_grad_enabled()
        value = squares(output, target)
        return value + output.abs().mean() if calls[0] > LATE else value

    return small(loss=loss)


class LoRA(nn.Module):
    """A low-rank addition that begins at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6).requires_grad_(False)
        self.a, self.b = nn.Parameter(torch.randn(6, 2)), nn.Parameter(torch.zeros(2, 6))
        self.a.register_hook(lambda gradient: gradient * 0.25)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.linear(x) + x @ self.a @ self.b)


class ZeroHead(Stack):
    """A head of zeros before which there are additions of zeros: the third step is the first to move all weights."""

    def __init__(self, block: Callable[[], nn.Module] = LoRA) -> None:
        super().__init__(block)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)


class LateHook(Stack):
    """A weight whose gradient a hook scales, from the fifth step on, as a buffer counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.layers[1].linear.weight.register_hook(lambda gradient: gradient * 0.25 if self.steps > 4 else gradient)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.steps += 1
        return super().forward(x)


class MaxNorm(nn.Module):
    """Embeddings that are kept short, by the pass that looks them up; at the beginning they are."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, 6, max_norm=1.0)
        nn.init.normal_(self.embed.weight, std=0.1)
        self.rest = Stack()

    def forward(self, ids: Tensor) -> Tensor:
        return self.rest(self.embed(ids).sum(1))


def _ids(generator: torch.Generator) -> tuple[Any, Any]:
    ids = torch.randint(0, 12, (2,), generator=generator)
    return ids, ids.sum() * 0.5


# What optimizers do


class _Late(SGD):
    """Does something else from its fifth step on."""

    count = 0

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        self.count += 1
        super().step()
        if self.count > 4:
            for group in self.param_groups:
                for param in group["params"]:
                    if param.grad is not None:
                        self.late(param)

    def late(self, param: Tensor) -> None:
        raise NotImplementedError


class LateNoise(_Late):
    """Draws noise."""

    def late(self, param: Tensor) -> None:
        param += 0.01 * torch.randn_like(param)


class LateTrust(_Late):
    """Looks at a parameter's norm."""

    def late(self, param: Tensor) -> None:
        param -= 0.01 * param / param.norm().clamp(min=1e-6)


class ColdNoise(SGD):
    """Noise in proportion to the learning rate (Langevin dynamics), which a warm-up starts at zero."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        super().step()
        for group in self.param_groups:
            for param in group["params"]:
                param += group["lr"] * torch.randn_like(param)


class BySize(SGD):
    """Small parameters learn faster."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    param -= group["lr"] * (2.0 if param.numel() <= 30 else 1.0) * param.grad


class SkipsLarge(SGD):
    """Leaves a parameter out whose largest gradient is too large, as one is where a sample is rare."""

    limit = 100.0

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None and (not param.numel() or param.grad.abs().max() < self.limit):
                    param -= group["lr"] * param.grad


class SkipsAll(SGD):
    """Leaves a step out where the gradient of the whole model is too large, as it is where a sample is rare."""

    limit = 2e4

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        params = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        if sum(float(p.grad.square().sum()) for p in params) ** 0.5 < self.limit:
            super().step()


def _outlier(size: float, generator: torch.Generator) -> tuple[Any, Any]:
    x, y = numbers(generator)
    return x, y + (size if generator.initial_seed() in RARE else 0.0)


def outliers(optimizer: Callable[..., Optimizer], size: float) -> Job:
    return small(optimizer=partial(optimizer, lr=0.02), data=lambda: Data(SAMPLES, partial(_outlier, size)))


class Hesitant(Optimizer):
    """Makes its state when a gradient is first small enough: AdaGrad that leaves the first step out."""

    def __init__(self, params: Any, lr: float = 0.05) -> None:
        super().__init__(params, {"lr": lr, "steps": 0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            group["steps"] += 1
            for param in group["params"]:
                if param.grad is None or group["steps"] == 1:
                    continue
                state = self.state[param]
                if not state:
                    state["sum"] = torch.zeros_like(param)
                state["sum"] += param.grad.square()
                param -= group["lr"] * param.grad / (state["sum"].sqrt() + 1e-8)


class Lookahead(SGD):
    """Keeps slow copies of the weights, made at the beginning, and goes back to them half way every fourth step."""

    def __init__(self, params: Iterable[nn.Parameter], **settings: Any) -> None:
        super().__init__(params, **settings)
        self.slow = [[p.detach().clone() for p in group["params"]] for group in self.param_groups]
        self.count = 0

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        super().step()
        self.count += 1
        if self.count % 4 == 0:
            for group, copies in zip(self.param_groups, self.slow, strict=True):
                for param, slow in zip(group["params"], copies, strict=True):
                    slow.lerp_(param, 0.5)
                    param.copy_(slow)


def late_average() -> Job:
    """The average of the weights, from the fifth step on, with which the model is evaluated: kept by a hook."""
    held: dict[str, Any] = {}

    class Averaged(Stack):
        average: Any = None

        def forward(self, x: Tensor) -> Tensor:
            if self.training or self.average is None:
                return super().forward(x)
            return self._averaged(x)

        def _averaged(self, x: Tensor) -> Tensor:
            for number in range(len(self.layers)):
                name = f"layers.{number}.linear"
                x = torch.tanh(F.linear(x, self.average[f"{name}.weight"], self.average[f"{name}.bias"]))
            return F.linear(x, self.average["head.weight"], self.average["head.bias"])

    def model() -> nn.Module:
        held["model"], held["steps"] = Averaged(), 0
        return held["model"]

    def optimizer(params: Any) -> Optimizer:
        made, averaged = AdamW(params, lr=0.02), held.get("model")

        def keep(*_: Any) -> None:
            made.steps = getattr(made, "steps", 0) + 1
            if averaged is not None and made.steps == 5:
                averaged.average = {name: p.detach().clone() for name, p in averaged.named_parameters()}
            elif averaged is not None and made.steps > 5:
                for name, p in averaged.named_parameters():
                    averaged.average[name].lerp_(p.detach(), 0.5)

        made.register_step_post_hook(keep)
        return made

    return small(model, optimizer=optimizer)


def by_layer(params: Any) -> Optimizer:
    params = list(params)
    groups = [{"params": [p], "lr": 0.01 * (1 + number % 3)} for number, p in enumerate(params)]
    return torch.optim.Adam(groups)


def late_plateau() -> Job:
    """A schedule that looks at the losses that the loss function has seen."""
    seen: list[float] = []

    def loss(output: Tensor, target: Tensor) -> Tensor:
        value = squares(output, target)
        if torch.is_grad_enabled():
            seen.append(float(value))
        return value

    def rate(step: int) -> float:
        return 1.0 if step < 5 else 1.0 / (1.0 + seen[-1])

    return small(loss=loss, scheduler=lambda optimizer: LambdaLR(optimizer, rate))


def schedule_by_weights() -> Job:
    """A schedule that looks at the weights, after a warm-up."""

    def scheduler(optimizer: Optimizer) -> LambdaLR:
        def rate(step: int) -> float:
            if step < 4:
                return 1.0
            return float(sum(p.detach().abs().sum() for g in optimizer.param_groups for p in g["params"])) / 50

        return LambdaLR(optimizer, rate)

    return small(scheduler=scheduler)


# What happens rarely


class RareExperts(nn.Module):
    """An expert for the rare samples, another for all others."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(6, 6) for _ in range(2))

    def forward(self, x: Tensor, mark: Tensor) -> Tensor:
        return x + torch.tanh(self.experts[int(is_rare(mark))](x))


class RareIdentity(Noticed):
    """Gives its input back as it is, where samples are rare."""

    def forward(self, x: Tensor, mark: Tensor) -> Tensor:
        return x if is_rare(mark) else torch.tanh(self.linear(x))


class RareExit(Noticing):
    """Leaves early where a sample is rare."""

    def forward(self, x: Tensor) -> Tensor:
        mark = x[:, :1]
        for number, layer in enumerate(self.layers):
            x = layer(x, mark)
            if number == 1 and is_rare(mark):
                break
        return self.head(x)


def rare_beside(keep: Callable[[dict[str, Any], Tensor], None], use: Callable[[dict[str, Any], Tensor], Tensor]) -> Job:
    """The first layer leaves a note for the last when a sample is rare."""
    note: dict[str, Any] = {}

    class Writes(Noticed):
        def forward(self, x: Tensor, mark: Tensor) -> Tensor:
            note.clear()
            if is_rare(mark):
                keep(note, x)
            return super().forward(x, mark)

        def rare(self, x: Tensor) -> Tensor:
            return x

    class Reads(Noticed):
        def rare(self, x: Tensor) -> Tensor:
            return x

        def forward(self, x: Tensor, mark: Tensor) -> Tensor:
            x = super().forward(x, mark)
            return use(note, x) if note else x

    def model() -> nn.Module:
        found = Noticing(Noticed)
        found.layers[0], found.layers[-1] = Writes(), Reads()
        return found

    return rare_job(model)


class RareNumber(Noticing):
    """A layer gives a Python number beside its value, which is another one where a sample is rare."""

    class Layer(Noticed):
        def forward(self, x: Tensor, mark: Tensor) -> Any:
            return torch.tanh(self.linear(x)), 3.0 if is_rare(mark) else 1.0

    def __init__(self) -> None:
        super().__init__(self.Layer)

    def forward(self, x: Tensor) -> Tensor:
        mark, product = x[:, :1], 1.0
        for layer in self.layers:
            x, number = layer(x, mark)
            product *= number
        return self.head(x) * product


class RareDraw(Noticed):
    """Draws from NumPy's and Python's generators where a sample is rare."""

    def rare(self, x: Tensor) -> Tensor:
        return x * float(np.random.uniform(0.5, 1.5)) + random.gauss(0.0, 0.5)


class RareTensorHook(Noticed):
    """Scales the gradient of its output by a hook where a sample is rare."""

    def rare(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            x.register_hook(lambda gradient: gradient * 0.5)
        return x


class RareOutput(Noticing):
    """A side layer whose output is used where a sample is rare."""

    def __init__(self) -> None:
        super().__init__(Noticed)
        self.side = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        mark = x[:, :1]
        side = self.side(x)
        for layer in self.layers:
            x = layer(x, mark)
        return self.head(x + side if is_rare(mark) else x)


class RareMove(Noticed):
    """Moves its own weight where a sample is rare."""

    def rare(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.linear.bias += 0.1
        return x


class RareClamp(Stack):
    """Keeps its weights in bounds that they reach late, at the beginning of every pass."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            for param in self.parameters():
                param.clamp_(-0.5, 0.5)
        return super().forward(x)


class RareGauss(Noticing):
    """Draws between layers where a sample is rare."""

    def forward(self, x: Tensor) -> Tensor:
        mark = x[:, :1]
        for layer in self.layers:
            x = layer(x, mark)
            if is_rare(mark):
                x = x + random.gauss(0.0, 0.3)
        return self.head(x)


class LayerDrop(nn.Module):
    """Is skipped for one pass in sixteen."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and random.random() < 1 / 16:
            return x
        return x + torch.tanh(self.linear(x))


# The data


class CachedDraws(Data):
    """Draws once for every sample, and remembers: a cache of augmented samples."""

    def __init__(self, samples: int = 16) -> None:
        super().__init__(samples, numbers)
        self.cache: dict[int, Any] = {}

    def __getitem__(self, i: int) -> Any:
        if i not in self.cache:
            x, y = super().__getitem__(i)
            self.cache[i] = x + 0.5 * torch.randn(6), y
        return self.cache[i]


class ByReads(Data):
    """Becomes harder after some reads."""

    def __init__(self) -> None:
        super().__init__(SAMPLES, numbers)
        self.reads = 0

    def __getitem__(self, i: int) -> Any:
        self.reads += 1
        x, y = super().__getitem__(i)
        return (x * 2.0 if self.reads > 50 else x), y


class Resized(Data):
    """Batches of longer samples where one of them is rare."""

    def __getitems__(self, indices: list[int]) -> list[Any]:
        length = 5 if RARE.intersection(indices) else 3
        return [(x.repeat(length, 1), y) for x, y in map(self.__getitem__, indices)]


class Batched(Data):
    """Is read by batches alone."""

    def __getitem__(self, i: int) -> Any:
        raise NotImplementedError("read by __getitems__")

    def __getitems__(self, indices: list[int]) -> list[Any]:
        return [super(Batched, self).__getitem__(i) for i in indices]


# What is kept in globals


def penalised() -> Job:
    """The loss looks at the model, which `model()` has left in a variable: a penalty on its weights."""
    held: dict[str, nn.Module] = {}

    def model() -> nn.Module:
        held["model"] = Stack()
        return held["model"]

    def loss(output: Tensor, target: Tensor) -> Tensor:
        penalty = sum(p.square().sum() for p in held["model"].parameters())
        return squares(output, target) + 0.05 * penalty

    return small(model, loss=loss)


def prebuilt() -> Job:
    """`model` gives a model that was built before, as in a notebook."""
    torch.manual_seed(3)
    built = Stack()
    return small(lambda: built)


def numbered() -> Job:
    """Layers are numbered by a global as they are made, and the number matters."""
    made = [0]

    class Numbered(Block):
        def __init__(self) -> None:
            super().__init__()
            self.number = made[0]
            made[0] += 1

        def change(self, x: Tensor) -> Tensor:
            return x / (1 + self.number)

    return small(lambda: Stack(Numbered))


def own_generator(where: str) -> Job:
    """Noise from a generator of its own: the layers', the model's, or the data's."""
    drawn = torch.Generator().manual_seed(5)

    class Noise(Block):
        def change(self, x: Tensor) -> Tensor:
            return x + 0.1 * torch.randn(x.shape, generator=drawn) if self.training else x

    class Noisy(Data):
        def __getitem__(self, i: int) -> Any:
            x, y = super().__getitem__(i)
            return x + 0.1 * torch.randn(6, generator=drawn), y

    class Made(Stack):
        def __init__(self) -> None:
            super().__init__()
            with torch.no_grad():
                for param in self.parameters():
                    param.uniform_(-0.5, 0.5, generator=drawn)

    if where == "layers":
        return small(lambda: Stack(Noise))
    return small(Made) if where == "weights" else small(data=lambda: Noisy(SAMPLES, numbers))


def beside(kind: str) -> Job:
    """A value goes from the first layer to later ones beside their inputs."""
    variable: contextvars.ContextVar[Any] = contextvars.ContextVar("kept", default=None)
    local, closure = threading.local(), [None]

    class Writes(Block):
        def change(self, x: Tensor) -> Tensor:
            value = float(x.detach().mean()) if kind == "number" else x.detach().abs()
            variable.set(value)
            local.value = closure[0] = value
            return x

    class Reads(Block):
        def change(self, x: Tensor) -> Tensor:
            kept = {"contextvar": variable.get, "local": lambda: local.value}.get(kind, lambda: closure[0])()
            return x + kept if kept is not None else x

    def model() -> nn.Module:
        found = Stack(Reads)
        found.layers[0] = Writes()
        return found

    return small(model)


def registered() -> Job:
    """The model enters itself in a registry that takes nobody twice."""
    registry: set[str] = set()

    def model() -> nn.Module:
        if "net" in registry:
            raise ValueError("net is registered already")
        registry.add("net")
        return Stack()

    return small(model)


def patched() -> Job:
    """`model` wraps a function that the layers use, every time."""
    functions = {"act": torch.tanh}

    class Acts(Block):
        def change(self, x: Tensor) -> Tensor:
            return functions["act"](x)

    def model() -> nn.Module:
        inner = functions["act"]
        functions["act"] = lambda x: 0.9 * inner(x)
        return Stack(Acts)

    return small(model)


def global_steps() -> Job:
    """A global counts the optimizer's steps, and the loss has another weight from the tenth on."""
    steps = [0]

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return squares(output, target) * (0.5 if steps[0] >= 10 else 1.0)

    def optimizer(params: Any) -> Optimizer:
        made = AdamW(params, lr=0.02)
        made.register_step_post_hook(lambda *_: steps.__setitem__(0, steps[0] + 1))
        return made

    return small(loss=loss, optimizer=optimizer)


class Neighbours(Stack):
    """The second layer takes a number that the first keeps: wrong only where it is cut between the two."""

    class Layer(Block):
        before: list[Any]

        def change(self, x: Tensor) -> Tensor:
            return x + self.before[0]

    def __init__(self) -> None:
        super().__init__(Block, 5)
        kept: list[Any] = [None]
        self.layers[1] = self.Layer()
        self.layers[1].before = kept
        self.layers[0].register_forward_hook(lambda module, inputs, output: kept.__setitem__(0, float(output.mean())))


class LayerScale(Block):
    """What it adds is scaled by a millionth at first, and has noise from a generator of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.scale = nn.Linear(6, 6), nn.Parameter(torch.full((6,), 1e-6))
        self.drawn = torch.Generator().manual_seed(4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.up(x))
        if self.training:
            hidden = hidden * torch.rand(hidden.shape, generator=self.drawn)
        return x + self.scale * self.linear(hidden)


class TwoSlots(torch.autograd.Function):
    """Keeps what backward needs in one of two places that are used in turn."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slots: list[Any], place: int) -> Tensor:
        slots[place] = x.detach().clone()
        ctx.slots, ctx.place = slots, place
        return x.square()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        return 2.0 * ctx.slots[ctx.place] * gradient, None, None


class PingPong(Block):
    """Has two places for activations, as double buffers do."""

    def __init__(self) -> None:
        super().__init__()
        self.slots: list[Any] = [None, None]

    def change(self, x: Tensor) -> Tensor:
        return TwoSlots.apply(x, self.slots, self.calls % 2)


# How models are put together


class Siamese(nn.Module):
    """One encoder with batch norm, called twice."""

    def __init__(self, norm: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(nn.Sequential(nn.Linear(6, 6), norm(), nn.Tanh()) for _ in range(3))
        self.head = nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        one, other = x, x.flip(-1)
        for layer in self.encoder:
            one = layer(one)
        for layer in self.encoder:
            other = layer(other)
        return self.head((one - other).abs())


class Accumulating(Stack):
    """Layers add to one tensor, in place."""

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros_like(x)
        for layer in self.layers:
            x = layer(x)
            total += x
        return self.head(total)


class Views(Stack):
    """Writes into views of older values, between layers."""

    def forward(self, x: Tensor) -> Tensor:
        kept = x = self.layers[0](x)
        kept = kept * 1.0
        half = kept[:, :3]
        for layer in self.layers[1:]:
            x = layer(x)
            half.add_(x[:, 3:])
        return self.head(x + kept)


class Collected(Stack):
    """Hooks collect what layers give, and the model adds it up."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Tensor] = []
        for layer in self.layers:
            layer.register_forward_hook(lambda module, inputs, output: self.found.append(output))

    def forward(self, x: Tensor) -> Tensor:
        self.found.clear()
        super().forward(x)
        return self.head(sum(self.found))


class HookedInForward(Block):
    """Registers a hook on its output."""

    def change(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            x.register_hook(lambda gradient: gradient.clamp(-0.05, 0.05))
        return x


class BackwardHooked(Stack):
    """A hook on a module's backward pass."""

    def __init__(self) -> None:
        super().__init__()
        for layer in self.layers:
            layer.register_full_backward_hook(
                lambda module, into, out: (into[0] * 0.5 if into[0] is not None else None,)
            )


class Auxiliary(Stack):
    """Has a second head in training, between layers."""

    def __init__(self) -> None:
        super().__init__()
        self.aux = nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers[1](self.layers[0](x))
        aux = self.aux(x) if self.training else 0.0
        return self.head(self.layers[3](self.layers[2](x))) + aux


class Stored(Stack):
    """Two parameters lie in the same memory."""

    def __init__(self) -> None:
        super().__init__()
        whole = torch.randn(2, 6)
        self.one, self.both = nn.Parameter(whole[0]), nn.Parameter(whole)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers[0](x * self.one)
        for layer in self.layers[1:]:
            x = layer(x)
        return self.head(x * self.both[1])


class ViewBuffer(Stack):
    """A buffer that is a view of a weight, another that is a view of a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("row", self.layers[0].linear.weight.data[0])
        self.register_buffer("sums", torch.zeros(2, 6))
        self.register_buffer("first", self.sums[0])

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.sums += x.detach().mean(0)
        return super().forward(x + self.row + self.first)


class Assigned(Block):
    """Puts another tensor in the place of its buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(6))

    def change(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return x - self.mean


class Scalars(Block):
    """A scale without dimensions, and a parameter without elements."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.nothing = nn.Parameter(torch.tensor(1.5)), nn.Parameter(torch.empty(0))

    def change(self, x: Tensor) -> Tensor:
        return x * self.scale + self.nothing.sum()


class Fourier(Block):
    """A complex weight."""

    def __init__(self) -> None:
        super().__init__()
        self.filter = nn.Parameter(torch.randn(4, dtype=torch.complex64))

    def change(self, x: Tensor) -> Tensor:
        return torch.fft.irfft(torch.fft.rfft(x) * self.filter, n=6)


class Strided(Block):
    """A weight whose elements do not lie in rows."""

    def __init__(self) -> None:
        super().__init__()
        self.linear.weight = nn.Parameter(torch.randn(6, 6).t())


class Wide(Block):
    """Computes in other dtypes than its neighbours."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.linear(x.to(self.linear.weight.dtype))).to(x.dtype)


class Channels(nn.Module):
    """Convolutions with channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(2, 2, 3, padding=1) for _ in range(4))
        self.head = nn.Linear(2, 1)
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(-1, 1, 2, 3).repeat(1, 2, 1, 1).contiguous(memory_format=torch.channels_last)
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return self.head(x.mean((2, 3)))


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.LazyLinear(1))


class ExtraState(Block):
    """Keeps something else in its state, too."""

    def get_extra_state(self) -> Any:
        return {"calls": self.calls}

    def set_extra_state(self, state: Any) -> None:
        self.calls = state["calls"]


Pair = namedtuple("Pair", "value skip")


@dataclass
class Both:
    value: Tensor
    parts: dict[str, Any]


class Structured(nn.Module):
    """Named tuples, dataclasses and dicts between layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(self.Layer() for _ in range(4))
        self.head = nn.Linear(6, 1)

    class Layer(Block):
        def forward(self, given: Any) -> Any:
            value, skip = (given.value, given.skip) if isinstance(given, Pair) else (given.value, given.parts["skip"])
            value = super().forward(value) + skip
            return Both(value, {"skip": skip * 0.5, "n": 1}) if isinstance(given, Pair) else Pair(value, skip * 0.5)

    def forward(self, x: Tensor) -> Tensor:
        given: Any = Pair(x, x)
        for layer in self.layers:
            given = layer(given)
        return self.head(given.value)


class Checkpointed(Stack):
    """Recomputes its layers, which have batch norm and dropout."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__(lambda: nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.1)))
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers[0](x)
        for layer in self.layers[1:]:
            x = checkpoint(layer, x, use_reentrant=self.reentrant)
        return self.head(x)


class Reversed(torch.autograd.Function):
    """Turns the gradient round."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -0.5 * gradient


class Turning(Stack):
    """An autograd function of its own between layers."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = Reversed.apply(layer(x))
        return self.head(x)


class Functional(Stack):
    """torch.func inside of forward: a layer for every sample by itself."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.func.vmap(lambda row, layer=layer: torch.tanh(layer.linear(row)))(x)
        return self.head(x)


class InnerGradient(Stack):
    """Looks at its own gradient in forward."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.requires_grad_()
            value = super().forward(x)
            (slope,) = torch.autograd.grad(value.sum(), x, create_graph=True)
        return value + 0.1 * slope.square().sum(-1, keepdim=True)


class Weights(Stack):
    """Uses a layer's weight without calling the layer."""

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x) * 0 + self.layers[0](x)
        return self.head(F.linear(x, self.layers[1].linear.weight.detach()) + F.linear(x, self.layers[2].linear.weight))


class Frozen(Stack):
    """Batch norm in evaluation mode within a model in training."""

    def __init__(self) -> None:
        super().__init__(lambda: nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Tanh()))
        for layer in self.layers:
            layer[1].eval()


class Memory(Block):
    """Hands what it gave last on to the next pass."""

    def __init__(self) -> None:
        super().__init__()
        self.memory: Any = 0.0

    def change(self, x: Tensor) -> Tensor:
        if self.training:
            x = x + 0.5 * self.memory
            self.memory = x.detach().mean(0)
        return x


class Queue(Block):
    """A buffer as a queue, with a pointer in Python."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("queue", torch.zeros(64, 6))
        self.place = 0

    def change(self, x: Tensor) -> Tensor:
        if self.training:
            self.queue[self.place % 64] = x.detach().mean(0)
            self.place += 1
        return x + self.queue[40:].mean(0)


def loss_with_weights() -> Job:
    """The loss is a module with weights, that draws."""
    torch.manual_seed(1)
    centre, drop = nn.Linear(1, 1), nn.Dropout(0.2)
    return small(loss=lambda output, target: squares(drop(centre(output)), target))


def loss_with_average() -> Job:
    """The loss is divided by its average so far."""
    average = [0.0]

    def loss(output: Tensor, target: Tensor) -> Tensor:
        value = squares(output, target)
        if torch.is_grad_enabled():
            average[0] = 0.9 * average[0] + 0.1 * float(value)
            return value / average[0]
        return value

    return small(loss=loss)


class Moves(Stack):
    """A buffer that moves in evaluation, where a sample is rare."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training and is_rare(x):
            self.seen += 1.0
        return super().forward(x) + self.seen


def _evaluated_rarely() -> Job:
    def late(generator: torch.Generator) -> tuple[Any, Any]:
        x, y = rarely(generator)
        x[0] = 4.0 if generator.initial_seed() == 5 else min(float(x[0]), 2.0)
        return x, y

    return small(Moves, evaluate=evaluation(late, 16, 2))


ZOO: dict[str, Callable[[], Job]] = {
    # late
    "late-half": lambda: small(lambda: Stack(LateHalf)),
    "late-dropout": lambda: small(lambda: Stack(LateDropout)),
    "late-skip": lambda: small(LateSkip),
    "late-scale": lambda: small(LateScale),
    "annealed": lambda: small(Annealed),
    "target-network": lambda: small(TargetNetwork),
    "unfreezing": lambda: small(Unfreezing),
    "growing": lambda: small(Growing),
    "memo": lambda: small(lambda: Stack(Memo)),
    "late-norm": lambda: small(lambda: Stack(LateSum)),
    "late-between-norm": lambda: between(lambda h: h / h.norm(dim=-1, keepdim=True)),
    "late-between-sort": lambda: between(lambda h: h.sort(-1).values),
    "late-between-noise": lambda: between(lambda h: h + 0.1 * torch.randn(h.shape)),
    "late-between-max": lambda: between(lambda h: h * h.detach().abs().max()),
    "late-global": late_global,
    "late-loss": late_loss,
    "lora": lambda: small(lambda: Stack(LoRA)),
    "zero-head-lora": lambda: small(ZeroHead),
    "late-hook": lambda: small(LateHook),
    "max-norm": lambda: job(
        MaxNorm, _ids, squares, batch_size=8, micro_batches=4, optimizer=partial(AdamW, lr=0.2), scheduler=None
    ),
    "late-average": late_average,
    "late-plateau": late_plateau,
    "schedule-by-weights": schedule_by_weights,
    # optimizers
    "late-noise": lambda: small(optimizer=partial(LateNoise, lr=0.02)),
    "late-trust": lambda: small(optimizer=partial(LateTrust, lr=0.02)),
    "cold-noise": lambda: small(
        optimizer=partial(ColdNoise, lr=0.02), scheduler=lambda o: LambdaLR(o, lambda step: max(0, step - 2) / 4)
    ),
    "by-size": lambda: small(optimizer=partial(BySize, lr=0.02)),
    "warm-by-size": lambda: small(
        optimizer=partial(BySize, lr=0.02), scheduler=lambda o: LambdaLR(o, lambda step: step / 5)
    ),
    "warm-noise": lambda: small(
        optimizer=partial(ColdNoise, lr=0.02), scheduler=lambda o: LambdaLR(o, lambda step: step / 5)
    ),
    "cold-by-size": lambda: small(
        optimizer=partial(BySize, lr=0.02), scheduler=lambda o: LambdaLR(o, lambda step: max(0, step - 2) / 4)
    ),
    "skips-large": lambda: outliers(SkipsLarge, 4e3),
    "skips-all": lambda: outliers(SkipsAll, 6e4),
    "hesitant": lambda: small(optimizer=Hesitant),
    "hesitant-global": lambda: replace(late_global(), optimizer=Hesitant),
    "hesitant-noisy": lambda: small(own_noise, optimizer=Hesitant),
    "lookahead": lambda: small(optimizer=partial(Lookahead, lr=0.02)),
    "filtered": lambda: small(
        partial(Chain, 5, 2), optimizer=lambda params: AdamW([p for p in params if p.requires_grad], lr=0.02)
    ),
    "by-layer": lambda: small(optimizer=by_layer),
    "maximize": lambda: small(optimizer=partial(SGD, lr=0.001, momentum=0.9, nesterov=True, maximize=True)),
    "fused": lambda: small(optimizer=partial(AdamW, lr=0.02, fused=True)),
    "foreach": lambda: small(optimizer=partial(AdamW, lr=0.02, foreach=True, amsgrad=True)),
    # rare
    "rare-experts": lambda: rare_job(lambda: Noticing(RareExperts)),
    "rare-identity": lambda: rare_job(lambda: Noticing(RareIdentity)),
    "rare-exit": lambda: rare_job(lambda: RareExit(Noticed)),
    "rare-mask": lambda: rare_beside(lambda n, x: n.update(mask=x.detach() > 0), lambda n, x: x * n["mask"]),
    "rare-number-beside": lambda: rare_beside(lambda n, x: n.update(scale=2.0), lambda n, x: x * n["scale"]),
    "rare-number": lambda: rare_job(RareNumber),
    "rare-draw": lambda: rare_job(lambda: Noticing(RareDraw)),
    "rare-tensor-hook": lambda: rare_job(lambda: Noticing(RareTensorHook)),
    "rare-output": lambda: rare_job(RareOutput),
    "rare-move": lambda: rare_job(lambda: Noticing(RareMove)),
    "clamped": lambda: small(RareClamp),
    "rare-gauss": lambda: rare_job(lambda: RareGauss(Noticed)),
    "layer-drop": lambda: small(lambda: Stack(LayerDrop)),
    "moves-in-evaluation": _evaluated_rarely,
    # data
    "cached-draws": lambda: small(data=CachedDraws),
    "by-reads": lambda: small(data=ByReads),
    "resized": lambda: small(
        lambda: nn.Sequential(Stack(), nn.Flatten(), nn.AdaptiveAvgPool1d(1)),
        data=lambda: Resized(SAMPLES, numbers),
        evaluate=None,
    ),
    "batched": lambda: small(evaluate=Evaluation(data=lambda: Batched(8, numbers))),
    "data-generator": lambda: own_generator("data"),
    # globals
    "penalised": penalised,
    "prebuilt": prebuilt,
    "numbered": numbered,
    "weights-generator": lambda: own_generator("weights"),
    "layers-generator": lambda: own_generator("layers"),
    "contextvar": lambda: beside("contextvar"),
    "thread-local": lambda: beside("local"),
    "number-beside": lambda: beside("number"),
    "registered": registered,
    "patched": patched,
    "global-steps": global_steps,
    "neighbours": lambda: small(Neighbours),
    "layer-scale": lambda: small(lambda: Stack(LayerScale)),
    "ping-pong": lambda: small(lambda: Stack(PingPong)),
    "memory": lambda: small(lambda: Stack(Memory)),
    "queue": lambda: small(lambda: Stack(Queue)),
    "loss-with-weights": loss_with_weights,
    "loss-with-average": loss_with_average,
    # structure
    "siamese": lambda: small(lambda: Siamese(lambda: nn.BatchNorm1d(6))),
    "siamese-spectral": lambda: small(
        lambda: Siamese(lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(6, 6))), micro_batches=2
    ),
    "accumulating": lambda: small(Accumulating),
    "views": lambda: small(Views),
    "collected": lambda: small(Collected),
    "hooked-in-forward": lambda: small(lambda: Stack(HookedInForward)),
    "backward-hooked": lambda: small(BackwardHooked),
    "auxiliary": lambda: small(Auxiliary),
    "stored": lambda: small(Stored),
    "view-buffer": lambda: small(ViewBuffer),
    "assigned": lambda: small(lambda: Stack(Assigned)),
    "scalars": lambda: small(lambda: Stack(Scalars)),
    "fourier": lambda: small(lambda: Stack(Fourier)),
    "strided": lambda: small(lambda: Stack(Strided)),
    "float64": lambda: small(lambda: Stack(partial(Wide, torch.float64)), clip_grad_norm=0.5),
    "bfloat16": lambda: small(lambda: Stack(partial(Wide, torch.bfloat16)), clip_grad_norm=0.5),
    "channels-last": lambda: small(Channels),
    "lazy": lambda: small(lazy),
    "extra-state": lambda: small(lambda: Stack(ExtraState)),
    "structured": lambda: small(Structured),
    "checkpointed": lambda: small(partial(Checkpointed, False)),
    "checkpointed-reentrant": lambda: small(partial(Checkpointed, True)),
    "turning": lambda: small(Turning),
    "functional": lambda: small(Functional),
    "inner-gradient": lambda: small(InnerGradient),
    "weights": lambda: small(Weights),
    "frozen-norm": lambda: small(Frozen),
}


def own_noise() -> nn.Module:
    """Draws noise from a generator of its own, made with it."""
    drawn = torch.Generator().manual_seed(2)

    class Noise(Block):
        def change(self, x: Tensor) -> Tensor:
            return x + 0.1 * torch.randn(x.shape, generator=drawn) if self.training else x

    return Stack(Noise)
