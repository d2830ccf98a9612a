"""Models to cut, small: every way in which values go from layer to layer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

sys.path.insert(0, str(Path(__file__).parents[3] / "examples"))

WIDTH, LENGTH, WORDS = 16, 8, 64


class TiedGPT(nn.Module):
    """Learned positions taken from the weight itself, a head that is the embedding, a scale of the root's own."""

    def __init__(self) -> None:
        super().__init__()
        import gpt

        self.token, self.position = nn.Embedding(WORDS, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.scale = nn.Parameter(torch.ones(1))
        self.blocks = nn.ModuleList(gpt.Block(WIDTH, 2, 0.1) for _ in range(3))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, ids: Tensor) -> Tensor:
        positions = self.position.weight[: ids.shape[1]]
        if self.token.weight.shape[0] != WORDS:  # a shape that is gone where the parameter is not
            raise AssertionError
        x = F.dropout(self.token(ids) * self.scale + positions, 0.2, self.training)
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x).to(self.token.weight.dtype), self.token.weight)


class Residual(nn.Module):
    """Residual additions in the parent's forward, and dropout between the blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, 32), nn.GELU(), nn.Linear(32, WIDTH)) for _ in range(3)
        )
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(WIDTH, WORDS)

    def forward(self, ids: Tensor) -> dict[str, Any]:
        x = self.embed(ids)
        for block in self.blocks:
            x = x + self.drop(block(x))
        return {"logits": self.head(x), "extra": (x.mean(), None)}


class ConvNet(nn.Module):
    """Batch norm, in-place activations, a skip over several units, a concatenation at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.down = nn.Sequential(nn.Conv2d(4, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.middle = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.head = nn.Linear(8, 3)

    def forward(self, image: Tensor) -> Tensor:
        skip = self.stem(image)
        low = self.down(skip)
        low = F.relu_(self.middle(low) + low)
        both = torch.cat([skip, self.up(low)], dim=1)
        return self.head(both.mean((2, 3)))


class Shared(nn.Module):
    """One block called again and again."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.block, self.head = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WORDS)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for _ in range(3):
            x = torch.tanh(self.block(x))
        return self.head(x)


class Writes(nn.Module):
    """Writes into tensors: into an activation, into a fresh tensor, and into a received one past the cut."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.filler = nn.Parameter(torch.randn(WIDTH))
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        x = x * 1
        x[:, 0] = self.filler
        kept = torch.zeros(ids.shape[0], 3, WIDTH)
        for index, layer in enumerate(self.layers[:3]):
            x = x + layer(x)
            kept[:, index] = x[:, index]
        with torch.no_grad():
            self.seen += x.mean()
        x.mul_(2)
        return self.layers[3](kept.sum(1) + x.mean(1)) * self.seen


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] * 2


class Odd(nn.Module):
    """Noise drawn between layers, a custom function there, transposed values, checkpoints around the layers."""

    def __init__(self, checkpointed: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.layers = nn.ModuleList(Noisy() for _ in range(3))
        self.checkpointed = checkpointed

    def forward(self, ids: Tensor) -> Tensor:
        x = F.dropout(self.embed(ids), 0.3)
        noise = torch.rand(WIDTH)
        for layer in self.layers:
            x = checkpoint(layer, x, use_reentrant=False) if self.checkpointed else layer(x)
            x = Double.apply(x + noise).transpose(0, 1)
        return x


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.linear(x), 0.3)


def ids(seed: int = 1, length: int = LENGTH) -> Tensor:
    return torch.randint(0, WORDS, (2, length), generator=torch.Generator().manual_seed(seed))


def of_logits(output: Any) -> Tensor:
    logits = output["logits"] if isinstance(output, dict) else getattr(output, "logits", output)
    return F.cross_entropy(logits.flatten(0, -2).float(), ids(2).flatten() % logits.shape[-1])


def of_anything(output: Tensor) -> Tensor:
    return output.square().mean()


def transformer(family: str, **changes: Any) -> nn.Module:
    """A model of `transformers`, built from a config of this size."""
    import transformers

    sizes = {
        "LlamaForCausalLM": {"num_hidden_layers": 2, "num_key_value_heads": 1, "intermediate_size": 32},
        "GPT2LMHeadModel": {"n_layer": 2, "n_positions": LENGTH},
        "BertForMaskedLM": {"num_hidden_layers": 2, "intermediate_size": 32, "max_position_embeddings": LENGTH},
        "T5ForConditionalGeneration": {"num_layers": 2, "d_kv": 8, "d_ff": 32, "decoder_start_token_id": 0},
        "AlbertForMaskedLM": {"num_hidden_layers": 3, "embedding_size": 8, "intermediate_size": 32},
        "MixtralForCausalLM": {"num_hidden_layers": 2, "num_key_value_heads": 1, "intermediate_size": 16},
    }
    cls = getattr(transformers, family)
    common = {"vocab_size": WORDS, "hidden_size": WIDTH, "num_attention_heads": 2, "bos_token_id": 1, "eos_token_id": 2}
    config = cls.config_class(**{**common, "pad_token_id": 0, **sizes[family], **changes})
    torch.manual_seed(3)
    return cls(config)


def build(make: Any, *args: Any) -> nn.Module:
    torch.manual_seed(3)
    return make(*args)
