"""examples/recommend.py as it is, or with `nn.Embedding` in place of its tables, without evaluation.

manyhands train benchmarks/jobs/clicks.py --workers 2 -- --kind dense --flags="--rows 100000"
"""

import dataclasses
import shlex
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from manyhands import Job
from manyhands.tables import SparseTable
from manyhands.training.jobfile import load_job

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "recommend.py"
LR = 0.1


def job(kind: Literal["table", "dense", "sparse"] = "table", flags: str = "") -> Job:
    """`dense`: gradients of whole tables. `sparse`: of rows, as torch has them in one process."""
    built = load_job(EXAMPLE, shlex.split(flags))
    if kind == "table":
        return dataclasses.replace(built, evaluate=None)

    def model() -> nn.Module:
        towers = built.model()
        for name, table in list(towers.named_children()):
            if isinstance(table, SparseTable):
                setattr(towers, name, embedding(table.spec.rows, table.spec.width, kind == "sparse"))
        return towers

    def optimizer(params: object) -> torch.optim.Optimizer:
        return torch.optim.Adagrad(params, lr=LR)  # type: ignore[arg-type]

    return dataclasses.replace(built, model=model, optimizer=optimizer, evaluate=None)


def embedding(rows: int, width: int, sparse: bool) -> nn.Embedding:
    made = nn.Embedding(rows, width, sparse=sparse)
    nn.init.normal_(made.weight, std=0.1)
    return made
