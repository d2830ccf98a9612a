"""Small models of every kind, each with the inputs of a step and a loss. All of them have dropout where they can."""

import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

from gpt import GPT

VOCABULARY, WIDTH, HEADS, LENGTH, BATCH = 128, 24, 4, 10, 2


def ids(step, length=LENGTH):
    return torch.randint(0, VOCABULARY, (BATCH, length), generator=torch.Generator().manual_seed(step))


def next_token(output, target):
    logits = output if isinstance(output, torch.Tensor) else output.logits
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), target[:, 1:].flatten())


def gpt(heads=HEADS, tied=False):
    model = GPT(layers=2, width=WIDTH, heads=heads, context=LENGTH, dropout=0.1)
    model.token = nn.Embedding(VOCABULARY, WIDTH)
    model.head = nn.Linear(WIDTH, VOCABULARY)
    if tied:
        model.head.weight = model.token.weight
    return model, lambda step: (ids(step),), lambda output, step: next_token(output, ids(step))


def tied_gpt():
    return gpt(tied=True)


class Functional(nn.Module):
    """A head that uses the embedding's weight without a module, and a fused projection of (heads, 3, width)."""

    def __init__(self):
        super().__init__()
        self.token, self.norm = nn.Embedding(VOCABULARY, WIDTH), nn.RMSNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH)
        self.query_norm = nn.LayerNorm(WIDTH // HEADS)
        nn.init.normal_(self.token.weight, std=0.2)

    def forward(self, tokens):
        x = self.token(tokens)
        q, k, v = self.qkv(self.norm(x)).view(*tokens.shape, HEADS, 3, -1).transpose(1, 2).unbind(3)
        scores = torch.einsum("bhqd,bhkd->bhqk", self.query_norm(q), k) / 3
        x = x + self.out(
            torch.einsum("bhqk,bhkd->bqhd", F.dropout(scores.softmax(-1), 0.2, self.training), v).flatten(2)
        )
        return F.linear(x, self.token.weight)


def functional():
    return Functional(), lambda step: (ids(step),), lambda output, step: next_token(output, ids(step))


class Grouped(nn.Module):
    """Grouped queries; q, k and v of different widths in one projection; fused gate and up; dropout in attention."""

    def __init__(self, groups):
        super().__init__()
        self.groups, self.sizes = groups, [groups * 2 * 4, groups * 4, groups * 4]
        self.token, self.norms = nn.Embedding(VOCABULARY, WIDTH), nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.qkv, self.out = nn.Linear(WIDTH, sum(self.sizes)), nn.Linear(self.sizes[0], WIDTH)
        self.gate_up, self.down = nn.Linear(WIDTH, 2 * 31), nn.Linear(31, WIDTH)
        self.head = nn.Linear(WIDTH, 40)

    def forward(self, tokens):
        x = self.token(tokens)
        q, k, v = self.qkv(self.norms[0](x)).split(self.sizes, -1)
        q, k, v = (t.view(*tokens.shape, -1, 4).transpose(1, 2) for t in (q, k, v))
        p = 0.1 * self.training
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=p, enable_gqa=True)
        x = x + F.dropout(self.out(attended.transpose(1, 2).flatten(2)), 0.1, self.training)
        gate, up = self.gate_up(self.norms[1](x)).chunk(2, -1)
        return self.head(x + self.down(F.dropout(F.silu(gate) * up, 0.1, self.training)))


def grouped(groups=4):
    """Its 31 hidden units and 40 classes are shared unevenly; the head is small and stays whole."""
    return Grouped(groups), lambda step: (ids(step),), lambda output, step: next_token(output, ids(step) % 40)


def two_groups():
    """Too few groups of heads for three workers."""
    return grouped(2)


def encoder():
    """torch's own encoder layer: attention by a packed weight that stays whole, an MLP that is split."""
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 40, dropout=0.1, batch_first=True)
    model = nn.Sequential(nn.Embedding(VOCABULARY, WIDTH), layer, nn.Linear(WIDTH, VOCABULARY))
    return model, lambda step: (ids(step),), lambda output, step: next_token(output, ids(step))


class Convolutions(nn.Module):
    """Convolutions, batch norm and skip connections, with an MLP behind them."""

    def __init__(self):
        super().__init__()
        self.first, self.second = (nn.Conv2d(c, 8, 3, padding=1, bias=False) for c in (3, 8))
        self.norm1, self.norm2 = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.head = nn.Sequential(nn.Linear(8 * 16, 48), nn.ReLU(), nn.Dropout(0.1), nn.Linear(48, 10))

    def forward(self, x):
        x = F.relu(self.norm1(self.first(x)))
        x = F.max_pool2d(x + F.relu(self.norm2(self.second(x))), 2)
        return self.head(x.flatten(1))


def convolutions():
    def inputs(step):
        return (torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(step)),)

    return Convolutions(), inputs, lambda output, step: F.cross_entropy(output, (torch.arange(6) + step) % 10)


def _of_config(family, **settings):
    from transformers import AutoConfig, AutoModelForCausalLM

    common = {"vocab_size": VOCABULARY, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **common, **settings))

    def inputs(step):
        return {"input_ids": ids(step), "attention_mask": torch.ones(BATCH, LENGTH, dtype=torch.long)}

    return model, inputs, lambda output, step: next_token(output, ids(step))


def llama():
    return _of_config(
        "llama", hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=3,
        intermediate_size=40, max_position_embeddings=LENGTH, attention_dropout=0.1,
    )  # fmt: skip


def qwen3():
    """Norms of queries and keys, on heads; tied embeddings."""
    return _of_config(
        "qwen3", hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=4, head_dim=8,
        intermediate_size=40, max_position_embeddings=LENGTH, tie_word_embeddings=True,
    )  # fmt: skip


def phi3():
    """Fused q, k, v of different widths, fused gate and up."""
    return _of_config(
        "phi3", hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=6, num_key_value_heads=3,
        intermediate_size=40, max_position_embeddings=LENGTH, resid_pdrop=0.1,
        partial_rotary_factor=1.0, original_max_position_embeddings=LENGTH,
    )  # fmt: skip


def gpt2():
    return _of_config("gpt2", n_embd=WIDTH, n_layer=2, n_head=HEADS, n_positions=LENGTH)


def gpt_neox():
    """Heads first in the fused projection, partial rotary, parallel residual."""
    return _of_config(
        "gpt_neox", hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=HEADS, intermediate_size=40,
        max_position_embeddings=LENGTH, hidden_dropout=0.1, attention_dropout=0.1,
    )  # fmt: skip


def bert(attention="sdpa"):
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=HEADS, intermediate_size=40,
        max_position_embeddings=LENGTH, attn_implementation=attention,
    )  # fmt: skip

    def inputs(step):
        mask = torch.ones(BATCH, LENGTH, dtype=torch.long)
        mask[0, -3:] = 0
        return {"input_ids": ids(step), "attention_mask": mask}

    return BertForMaskedLM(config), inputs, lambda output, step: next_token(output, ids(step))


def eager_bert():
    return bert("eager")


def t5():
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=VOCABULARY, d_model=WIDTH, d_kv=6, d_ff=40, num_layers=2, num_heads=HEADS, decoder_start_token_id=0,
        relative_attention_num_buckets=8, feed_forward_proj="gated-gelu", tie_word_embeddings=True,
    )  # fmt: skip

    def inputs(step):
        return {"input_ids": ids(step), "decoder_input_ids": ids(step + 100, 7)}

    return T5ForConditionalGeneration(config), inputs, lambda output, step: next_token(output, ids(step + 100, 7))
