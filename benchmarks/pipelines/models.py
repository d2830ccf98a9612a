"""examples/gpt.py in the sizes that are measured here."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import torch
from common import ROOT
from torch import Tensor, nn
from torch.nn import functional as F

from manyhands import Job


@dataclass(frozen=True, kw_only=True)
class Size:
    """Of a GPT and its batch."""

    layers: int = 8
    width: int = 192
    heads: int = 4
    context: int = 128
    vocabulary: int = 256
    samples: int = 2
    """Of a micro-batch."""
    micro_batches: int = 8

    @property
    def batch_size(self) -> int:
        return self.samples * self.micro_batches

    def quick(self) -> Size:
        return replace(self, layers=4, width=64, samples=1)


def example() -> ModuleType:
    """examples/gpt.py."""
    name = "example_gpt"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / "gpt.py")
        assert spec is not None and spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def gpt(size: Size) -> nn.Module:
    module = example().GPT(size.layers, size.width, size.heads, size.context, dropout=0.1)
    if size.vocabulary != 256:
        module.token = nn.Embedding(size.vocabulary, size.width)
        module.head = nn.Linear(size.width, size.vocabulary)
    return module


class Tokens(torch.utils.data.Dataset):
    """Random ones, each to be followed by the next: what they are costs nothing and changes no time."""

    def __init__(self, size: Size) -> None:
        generator = torch.Generator().manual_seed(0)
        self.tokens = torch.randint(size.vocabulary, (64, size.context + 1), generator=generator)

    def __len__(self) -> int:
        return 1 << 20

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        window = self.tokens[index % len(self.tokens)]
        return window[:-1], window[1:]


def loss(logits: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1).float(), target.flatten())


def optimizer(params: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(params, lr=1e-4)


def job(size: Size) -> Job:
    return Job(
        model=lambda: gpt(size),
        data=lambda: Tokens(size),
        loss=loss,
        optimizer=optimizer,
        batch_size=size.batch_size,
        micro_batches=size.micro_batches,
        steps=1_000_000,
    )


def block_cuts(size: Size, stages: int) -> tuple[str, ...]:
    """Names of the units that begin the stages but the first, where each has as many blocks."""
    return tuple(f"blocks.{size.layers * stage // stages}" for stage in range(1, stages))
