"""Any causal language model of `transformers`, built from a config and trained from scratch on text, byte by byte.

manyhands train examples/hf.py --workers 2 -- --family llama --layers 4
"""

import sysconfig
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM

from manyhands import Evaluation, Job


class Text(torch.utils.data.Dataset):
    """Windows of bytes as the keyword arguments that a transformers model takes; labels are the inputs."""

    def __init__(self, text: Path | None, context: int, held_out: bool):
        files = [text] if text else sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
        raw = torch.frombuffer(bytearray(b"".join(f.read_bytes() for f in files)), dtype=torch.uint8)
        cut = len(raw) * 9 // 10
        self.bytes, self.context = (raw[cut : cut + 64 * context] if held_out else raw[:cut]), context

    def __len__(self) -> int:
        return len(self.bytes) // self.context

    def __getitem__(self, i: int) -> tuple[dict[str, Tensor], Tensor]:
        ids = self.bytes[i * self.context : (i + 1) * self.context].long()
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, ids


def loss(output: Any, ids: Tensor) -> Tensor:
    return F.cross_entropy(output.logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())


def job(
    family: str = "llama", layers: int = 2, width: int = 64, heads: int = 4, context: int = 64,
    text: Path | None = None, batch_size: int = 16, micro_batches: int = 4, lr: float = 1e-3,
    steps: int = 100, seed: int = 0, precision: str = "fp32", compile: bool = False,
) -> Job:  # fmt: skip
    config = AutoConfig.for_model(
        family, vocab_size=256, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=heads, intermediate_size=3 * width, max_position_embeddings=context, use_cache=False,
        bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    return Job(
        model=lambda: AutoModelForCausalLM.from_config(config),
        data=lambda: Text(text, context, held_out=False),
        loss=loss,
        optimizer=lambda params: torch.optim.AdamW(params, lr=lr),
        batch_size=batch_size,
        micro_batches=micro_batches,
        steps=steps,
        seed=seed,
        precision=precision,
        compile=compile,
        clip_grad_norm=1.0,
        evaluate=Evaluation(data=lambda: Text(text, context, held_out=True)),
    )
