"""The 124M-parameter GPT (12 layers, width 768, tied embeddings) on random tokens.

manyhands train benchmarks/jobs/gpt124m.py --device cuda -- --steps 50 --compile

The vocabulary of 50257 is padded to 50304, a multiple of 64, for which matrix products are faster.
There is no dropout.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manyhands import Job

VOCABULARY = 50304


class Tokens(torch.utils.data.Dataset):
    """Windows of random tokens; the target is the window moved on by one."""

    def __init__(self, context: int, vocabulary: int, samples: int = 4096) -> None:
        generator = torch.Generator().manual_seed(0)
        self.tokens = torch.randint(vocabulary, (samples * context + 1,), generator=generator)
        self.context = context

    def __len__(self) -> int:
        return len(self.tokens) // self.context

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        window = self.tokens[i * self.context : (i + 1) * self.context + 1]
        return window[:-1], window[1:]


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + self.out(attended)
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class GPT(nn.Module):
    def __init__(self, layers: int, width: int, heads: int, context: int, vocabulary: int) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        nn.init.normal_(self.token.weight, std=0.02)
        nn.init.normal_(self.position.weight, std=0.02)
        self.head.weight = self.token.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.token(ids) + self.position.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def loss(logits: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1).float(), target.flatten())


def optimizer(params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(params, lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)


def job(
    layers: int = 12, width: int = 768, heads: int = 12, context: int = 1024, vocabulary: int = VOCABULARY,
    batch_size: int = 64, micro_batches: int = 4, steps: int = 1_000_000, precision: str = "bf16",
    compile: bool = False, reproducible: bool = True,
) -> Job:  # fmt: skip
    return Job(
        model=lambda: GPT(layers, width, heads, context, vocabulary),
        data=lambda: Tokens(context, vocabulary),
        loss=loss,
        optimizer=optimizer,
        batch_size=batch_size,
        micro_batches=micro_batches,
        steps=steps,
        precision=precision,
        compile=compile,
        clip_grad_norm=1.0,
        reproducible=reproducible,
    )
