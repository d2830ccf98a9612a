"""The server of `torch_gang.py` with the models of `transformers` imported, too, so that members need not."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "torch"))

from torch_gang import make_groups, serve  # noqa: F401  members look make_groups up here

FAMILIES = ["bert", "gpt2", "gpt_neox", "llama", "phi3", "qwen3", "t5"]

if __name__ == "__main__":
    from importlib import import_module

    for family in FAMILIES:
        import_module(f"transformers.models.{family}.modeling_{family}")
    serve()
