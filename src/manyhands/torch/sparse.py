"""All-reduce of sparse tensors, which DDP has for the gradients of `nn.Embedding(sparse=True)`.

Ranks differ in which elements they have, so nothing can be added on the way: every rank gets all indices and values and
adds them up itself, in rank order. Moves (n - 1) / n of everyone's non-zeros to each rank. How many each has is asked
first, and waited for, because the buffers depend on it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from manyhands.torch.arguments import check_sparse
from manyhands.torch.buffers import flat
from manyhands.torch.work import Outcome, raise_failure

if TYPE_CHECKING:
    from manyhands.transport.group import Group


def all_reduce_sparse(title: str, group: Group, tensor: Tensor, op: str) -> tuple[list[Outcome], Callable[[], None]]:
    """The operations that bring everyone's part here, and what adds them up in place when they are done.

    Raises:
        ArgumentError: no sum or mean, or not a COO tensor.
    """
    check_sparse(title, tensor, op)
    own = tensor.detach().coalesce()
    counts = torch.empty(group.world, dtype=torch.int64)
    raise_failure(title, group.all_gather(counts, torch.tensor([own._nnz()])))
    outcomes: list[Outcome] = []

    def everyones(mine: Tensor) -> list[Tensor]:
        """The rows of each rank of a tensor whose rows are elements."""
        parts = [torch.empty(count, *mine.shape[1:], dtype=mine.dtype, device=mine.device) for count in counts.tolist()]
        parts[group.rank].copy_(mine)
        outcomes.extend(group.broadcast(flat(part), root) for root, part in enumerate(parts))
        return parts

    indices, values = everyones(own.indices().t()), everyones(own.values())

    def add_up() -> None:
        places, elements = torch.cat(indices).t(), torch.cat(values)
        total = torch.sparse_coo_tensor(places, elements, tensor.shape, check_invariants=False).coalesce()
        with torch.no_grad():  # and not detach(), which makes another sparse tensor
            tensor.copy_(total / group.world if op == "avg" else total)

    return outcomes, add_up
