"""A small byte-level GPT on the source of Python's standard library, or on any text file.

manyhands train examples/gpt.py --workers 2 -- --layers 6
"""

import sysconfig
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manyhands import Evaluation, Job


class Text(torch.utils.data.Dataset):
    """Overlapping-free windows of bytes; the target is the window moved on by one byte."""

    def __init__(self, text: Path | None, context: int, held_out: bool):
        files = [text] if text else sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
        raw = torch.frombuffer(bytearray(b"".join(f.read_bytes() for f in files)), dtype=torch.uint8)
        cut = len(raw) * 9 // 10
        self.bytes, self.context = (raw[cut : cut + 64 * context + 1] if held_out else raw[:cut]), context

    def __len__(self) -> int:
        return (len(self.bytes) - 1) // self.context

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        window = self.bytes[i * self.context : (i + 1) * self.context + 1].long()
        return window[:-1], window[1:]


class Block(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + F.dropout(self.out(attended), self.dropout, self.training)
        return x + F.dropout(self.mlp(self.norm2(x)), self.dropout, self.training)


class GPT(nn.Module):
    def __init__(self, layers: int, width: int, heads: int, context: int, dropout: float):
        super().__init__()
        self.token, self.position = nn.Embedding(256, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 256)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.token(ids) + self.position.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def loss(logits: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1).float(), target.flatten())


def job(
    text: Path | None = None, layers: int = 4, width: int = 128, heads: int = 4, context: int = 128,
    dropout: float = 0.1, batch_size: int = 32, micro_batches: int = 8, lr: float = 1e-3, steps: int = 200,
    seed: int = 0, precision: str = "fp32", compile: bool = False,
) -> Job:  # fmt: skip
    return Job(
        model=lambda: GPT(layers, width, heads, context, dropout),
        data=lambda: Text(text, context, held_out=False),
        loss=loss,
        optimizer=lambda params: torch.optim.AdamW(params, lr=lr),
        scheduler=lambda opt: torch.optim.lr_scheduler.CosineAnnealingLR(opt, steps),
        batch_size=batch_size,
        micro_batches=micro_batches,
        steps=steps,
        seed=seed,
        precision=precision,
        compile=compile,
        clip_grad_norm=1.0,
        evaluate=Evaluation(data=lambda: Text(text, context, held_out=True), every=100),
    )
