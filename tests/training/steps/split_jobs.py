"""Jobs to split, small, one for every way in which a model is put together."""

from __future__ import annotations

import itertools
import random
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from manyhands import Evaluation, Job

sys.path.insert(0, str(Path(__file__).parents[3] / "examples"))

WORDS, WIDTH, HEADS, LENGTH = 48, 16, 2, 8


class Data:
    """Samples that follow from their index."""

    def __init__(self, samples: int, make: Callable[[torch.Generator], tuple[Any, Any]]) -> None:
        self.samples, self.make = samples, make

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, i: int) -> tuple[Any, Any]:
        return self.make(torch.Generator().manual_seed(i))


def _words(generator: torch.Generator, length: int = LENGTH) -> Tensor:
    return torch.randint(0, WORDS, (length,), generator=generator)


def _text(generator: torch.Generator) -> tuple[Any, Any]:
    words = _words(generator, LENGTH + 1)
    return words[:-1], words[1:]


def _masked(generator: torch.Generator) -> tuple[Any, Any]:
    words, mask = _words(generator), torch.ones(LENGTH, dtype=torch.long)
    mask[LENGTH - int(torch.randint(0, 4, (), generator=generator)) :] = 0
    return {"input_ids": words, "attention_mask": mask}, words


def _pairs(generator: torch.Generator) -> tuple[Any, Any]:
    answer = _words(generator, 5)
    return {"input_ids": _words(generator), "decoder_input_ids": answer}, answer


def _pictures(generator: torch.Generator) -> tuple[Any, Any]:
    return torch.randn(3, 8, 8, generator=generator), torch.randint(0, 5, (), generator=generator)


def numbers(generator: torch.Generator) -> tuple[Any, Any]:
    x = torch.randn(6, generator=generator)
    return x, x.square().sum()


def _noisy(generator: torch.Generator) -> tuple[Any, Any]:
    """Numbers with noise from the generators that the model draws from, too."""
    x, y = numbers(generator)
    return x + torch.randn(6) + random.gauss(0.0, 1.0) + float(np.random.standard_normal()), y


def evaluation(make: Callable[[torch.Generator], tuple[Any, Any]], samples: int, size: int) -> Evaluation:
    """Batches of a size of their own, the last one smaller."""
    metrics = {"size": lambda output, target: torch.tensor(float(len(target)))}
    return Evaluation(data=lambda: Data(samples, make), metrics=metrics, batch_size=size)


def _logits(output: Any, target: Tensor) -> Tensor:
    logits = getattr(output, "logits", output)
    return F.cross_entropy(logits.flatten(0, -2) if logits.ndim > 2 else logits, target.flatten())


def squares(output: Tensor, target: Tensor) -> Tensor:
    return F.mse_loss(output.squeeze(-1), target)


def _right(output: Any, target: Tensor) -> Tensor:
    return (getattr(output, "logits", output).argmax(-1) == target).float().mean()


def job(
    model: Callable[[], nn.Module],
    make: Callable[[torch.Generator], tuple[Any, Any]],
    loss: Callable[[Any, Any], Tensor] = _logits,
    **changes: Any,
) -> Job:
    metrics = {} if loss is squares else {"right": _right}
    settings: dict[str, Any] = {
        "optimizer": torch.optim.AdamW,
        "scheduler": lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12),
        "batch_size": 16,
        "micro_batches": 8,
        "steps": 40,
        "clip_grad_norm": 0.5,
        "evaluate": Evaluation(data=lambda: Data(8, make), metrics=metrics),
    }
    return Job(model=model, data=lambda: Data(50, make), loss=loss, **(settings | changes))


# Models of our own


def _gpt(layers: int, tied: bool) -> nn.Module:
    from gpt import GPT

    model = GPT(layers=layers, width=WIDTH, heads=HEADS, context=LENGTH, dropout=0.1)
    model.token, model.head = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, WORDS)
    if tied:
        model.head.weight = model.token.weight
    return model


class Convolutions(nn.Module):
    """Batch norm, skips past several units, an activation in place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)) for _ in range(3)
        )
        self.drop, self.head = nn.Dropout(0.1), nn.Linear(8, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = skip = self.stem(image)
        for block in self.blocks:
            x = F.relu(x + block(x))
        return self.head(self.drop(torch.cat([x, skip], 1).mean((2, 3))))


class Chain(nn.Module):
    """Linear layers one after another: cheap, and cut anywhere. The first ones may be frozen."""

    def __init__(self, layers: int = 5, frozen: int = 0) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(layers))
        self.drop, self.head = nn.Dropout(0.1), nn.Linear(6, 1)
        self.layers[:frozen].requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = self.drop(torch.tanh(layer(x)))
        return self.head(x)


class Aliases(nn.Module):
    """A weight with three names: of an embedding, of a layer that is called, of one whose weight alone is used; and one
    block twice."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.block = nn.Embedding(WORDS, 6), nn.Linear(6, 6)
        self.blocks = nn.ModuleList([self.block, nn.Linear(6, 6), self.block])
        self.middle, self.head = nn.Linear(6, WORDS, bias=False), nn.Linear(6, WORDS, bias=False)
        self.middle.weight = self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for block in self.blocks:
            x = x + torch.tanh(block(x))
        x = x + F.linear(self.middle(x).softmax(-1), self.middle.weight.T)
        return F.linear(x, self.head.weight)


class Sometimes(nn.Module):
    """A scale of the root's own, a parameter that is never used, and a buffer that counts."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.unused = nn.Parameter(torch.ones(6)), nn.Parameter(torch.ones(3))
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))
        self.head = nn.Linear(6, 1)
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("calls", torch.zeros((), dtype=torch.long), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.scale
        for layer in self.layers:
            x = x + torch.relu(layer(x))
        if self.training:
            with torch.no_grad():
                self.mean.lerp_(x.mean(0), 0.1)
                self.calls += 1
        return self.head(x - self.mean)


class Communicating(nn.Module):
    """Uses `torch.distributed` itself: a world of its own, of one process, another one for every model."""

    def __init__(self) -> None:
        super().__init__()
        found_a_world()
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(4))
        self.head = nn.Linear(6, 1)
        for param in self.parameters():
            dist.broadcast(param.data, 0)

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.full((1,), 0.5)
        dist.all_reduce(scale)
        for layer in self.layers:
            x = x + scale * torch.tanh(layer(x))
        return self.head(x / dist.get_world_size() + dist.get_rank())


_backends = itertools.cycle(["gloo", "manyhands"])


def found_a_world() -> None:
    """As a job does that knows nothing of the gang; a world that it finds must be its own former one."""
    import manyhands.torch  # noqa: F401  a backend like any other

    if dist.is_initialized():
        assert dist.get_world_size() == 1, "the default process group is not the job's"
        dist.destroy_process_group()
    dist.init_process_group(next(_backends), store=dist.HashStore(), rank=0, world_size=1)


def _founding(generator: torch.Generator) -> tuple[Any, Any]:
    """Now and then the job's world is another one, in the middle of a step."""
    x, y = numbers(generator)
    if dist.is_initialized() and x[0] > 1.0:
        found_a_world()
    return x, y


# Models of transformers


def _transformer(family: str, tied: bool = False, **sizes: Any) -> nn.Module:
    import transformers

    cls = getattr(transformers, family)
    common = {"vocab_size": WORDS, "pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
    config = cls.config_class(**{**common, **sizes})
    config.tie_word_embeddings = tied  # T5's constructor does not take it
    return cls(config)


_SIZES = {
    "hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": HEADS, "intermediate_size": 24,
    "max_position_embeddings": LENGTH,
}  # fmt: skip
_T5 = {
    "d_model": WIDTH, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": HEADS, "decoder_start_token_id": 0,
    "relative_attention_num_buckets": 8, "dropout_rate": 0.1,
}  # fmt: skip


def _sgd(params: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=0.05, momentum=0.9)


JOBS: dict[str, Callable[[], Job]] = {
    "gpt": lambda: job(partial(_gpt, 4, False), _text),
    "tied": lambda: job(partial(_gpt, 3, True), _text),
    "cnn": lambda: job(Convolutions, _pictures, micro_batches=4),
    "chain": lambda: job(partial(Chain, 7, 0), numbers, squares),
    "frozen": lambda: job(partial(Chain, 5, 2), numbers, squares),
    "sometimes": lambda: job(Sometimes, numbers, squares, scheduler=None, clip_grad_norm=None, evaluate=None),
    "aliases": lambda: job(Aliases, _text, micro_batches=4),
    "evaluated": lambda: job(partial(Chain, 7, 0), numbers, squares, evaluate=evaluation(numbers, 11, 4)),
    "evaluated-llama": lambda: job(
        partial(_transformer, "LlamaForCausalLM", **_SIZES, num_key_value_heads=1), _masked,
        evaluate=evaluation(_masked, 12, 5),
    ),
    "draws": lambda: job(partial(Chain, 7, 0), _noisy, squares),
    "communicating": lambda: job(Communicating, _founding, squares),
    "bf16": lambda: job(partial(_gpt, 2, True), _text, precision="bf16", micro_batches=4),
    "llama": lambda: job(
        partial(_transformer, "LlamaForCausalLM", **_SIZES, num_key_value_heads=1, attention_dropout=0.1), _masked,
    ),
    "bert": lambda: job(partial(_transformer, "BertForMaskedLM", tied=True, **_SIZES), _masked, micro_batches=4),
    "t5": lambda: job(
        partial(_transformer, "T5ForConditionalGeneration", **_T5), _pairs, micro_batches=4
    ),
    "t5-tied": lambda: job(
        partial(_transformer, "T5ForConditionalGeneration", tied=True, **_T5), _pairs, micro_batches=4
    ),
    "gpt-sgd": lambda: job(partial(_gpt, 3, True), _text, optimizer=_sgd),
}  # fmt: skip
