"""Whether workers can be forked from this process: torch cannot, after some of what a notebook may have done."""

from __future__ import annotations

import sys

from manyhands.engine.forked import check_fork
from manyhands.errors import UserError

_REMEDY = "Put the job into a file and train that, or train before anything else in a fresh process."


def check(threads: int) -> None:
    """Try what a worker does, in a fork that is thrown away.

    Raises:
        UserError: it cannot be done; says why and what to do.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        return  # nothing has been computed yet
    if torch.cuda.is_initialized():
        raise UserError(f"this process has used CUDA, and what is forked from it could not. {_REMEDY}")

    def compute() -> None:
        torch.set_num_threads(threads)
        weights = torch.ones(256, 256, requires_grad=True)
        (weights @ weights).sum().backward()

    check_fork(compute, _REMEDY)
