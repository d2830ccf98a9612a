"""Work in a process that is thrown away: whatever it does to models, data, generators and modules is gone afterwards.

A fork has all that this process has. It can be made as long as this process has not used CUDA, nor computed a gradient
or run an operator on several threads: the threads that do so are not in the fork, and would be waited for.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable

import torch

from manyhands.engine.process import describe_status, die_with_parent


class ApartError(Exception):
    """The process ended without an answer; says how."""


def can_fork(threads: int) -> bool:
    """Whether this process, which has not computed any gradient, can be forked.

    Args:
        threads: that operators may use.
    """
    return threads == 1 and not torch.cuda.is_initialized()


def in_fork(work: Callable[[], bytes]) -> bytes:
    """What `work` gives in a fork of this process; waits for that.

    Raises:
        ApartError: the fork ended without an answer.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _work(work, reader, writer, parent)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status:
        raise ApartError(f"the process that checks {describe_status(status)}")
    return answer


def _work(work: Callable[[], bytes], reader: int, writer: int, parent: int) -> None:
    code = 1
    try:
        die_with_parent(parent)
        os.close(reader)
        answer = work()
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(answer)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)
