"""manyhands as a backend of `torch.distributed`: importing this package registers it.

    import manyhands.torch
    torch.distributed.init_process_group("manyhands")

Nothing else in a script changes, and nothing but the usual rank variables is needed. DDP, FSDP2, DTensor, functional
collectives and distributed checkpoints then run over collectives that were planned for the links there are.
`MANYHANDS_CLUSTER=FILE.toml` gives the cluster, one device or host for each rank, instead of measuring it.
"""

import torch
import torch.distributed as dist

from manyhands.torch.backend import ProcessGroup
from manyhands.torch.connect import create

__all__ = ["BACKEND", "ProcessGroup"]

BACKEND = "manyhands"
"""The name to give to `init_process_group`."""

if not hasattr(dist.Backend, BACKEND.upper()):
    # A list: a string would be read letter by letter. CUDA tensors are staged through pinned memory.
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    dist.Backend.register_backend(BACKEND, create, extended_api=True, devices=devices)
