"""A rank of a lab that reduces until something breaks, and then writes down how."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist

import manyhands.torch  # noqa: F401

folder = Path(sys.argv[1])
torch.set_num_threads(1)
dist.init_process_group("manyhands")
tensor = torch.ones(1 << 20)
try:
    while True:
        dist.all_reduce(tensor)
        (folder / f"ready{dist.get_rank()}").touch()
except Exception as error:
    (folder / "part").with_suffix(f".{dist.get_rank()}").write_text(str(error))
    (folder / "part").with_suffix(f".{dist.get_rank()}").rename(folder / f"end{dist.get_rank()}")
