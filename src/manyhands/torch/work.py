"""The handle of an operation in flight, as `torch.distributed` wants it."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from manyhands.torch.errors import OperationFailedError, WaitTimeoutError
from manyhands.transport.errors import GroupError

Outcome = concurrent.futures.Future
"""The transport's future: done when the bytes have moved, or failed with an error that names rank and operation."""


class Work(dist.Work):
    """One operation of a process group, perhaps made of several of the transport's.

    Args:
        title: names the operation in errors.
        outcomes: all have to succeed; the first failure is the operation's.
        finish: called once when all have succeeded, to bring results home from temporary buffers.
        tensors: what the operation's future gives, in the caller's form.
        callbacks: where callbacks of the future run. Not on the transport's thread: they may wait for other operations.
    """

    def __init__(
        self,
        title: str,
        outcomes: Sequence[Outcome],
        finish: Callable[[], None] | None,
        tensors: Sequence[torch.Tensor],
        callbacks: concurrent.futures.Executor,
    ) -> None:
        super().__init__()
        self._title = title
        self._tensors = list(tensors)
        self._callbacks = callbacks
        self._future: torch.futures.Future | None = None
        self._done = outcomes[0] if len(outcomes) == 1 and finish is None else join(outcomes, finish)

    def wait(self, timeout: timedelta | None = None) -> bool:
        """Return when the operation is over; raise its error, or an error when the timeout comes first.

        PyTorch says 0 where it means that there is no timeout.
        """
        seconds = timeout.total_seconds() if timeout else 0.0
        try:
            with self.span(" wait"):
                self._done.exception(seconds if seconds > 0 else None)
        except concurrent.futures.TimeoutError:
            raise WaitTimeoutError(
                f"Timed out: {self._title} was not over after {seconds:g} s. A rank may be late or may not "
                "have called it; a longer timeout, or wait() without one, waits for it."
            ) from None
        raise_failure(self._title, self._done)
        return True

    def span(self, suffix: str = "") -> AbstractContextManager[Any]:
        """What a profile shows. Never across threads: a profile that ended before the operation would be written to."""
        if not torch.autograd._profiler_enabled():
            return nullcontext()
        return torch.profiler.record_function(f"manyhands:{self._title.split(' (')[0]}{suffix}")

    @property
    def outcome(self) -> Outcome:
        return self._done

    def synchronize(self) -> None:
        self.wait()

    def is_completed(self) -> bool:
        return self._done.done()

    def is_success(self) -> bool:
        return self._done.done() and self._done.exception() is None

    def exception(self) -> BaseException | None:
        return self._done.exception() if self._done.done() else None

    def result(self) -> list[torch.Tensor]:
        return self._tensors

    def source_rank(self) -> int:
        """The rank that a receive from anyone received from."""
        self.wait()
        return self._done.result()

    _source_rank = source_rank

    def get_future(self) -> torch.futures.Future:
        """A future of the tensors. DDP takes it after each bucket, so it is made only when asked for."""
        if self._future is None:
            self._future = torch_future(self._title, self._done, self._tensors, self._callbacks)
        return self._future


def raise_failure(title: str, done: Outcome) -> None:
    """Wait; if it failed, say which operation it was, whatever the transport was at when it noticed."""
    error = done.exception()
    if isinstance(error, GroupError):  # the same for all that fail with it; where it was raised says nothing
        error.with_traceback(None)
    if error is not None:
        raise OperationFailedError(f"{title} failed: {error}") from error


def torch_future(
    title: str, done: Outcome, tensors: list[torch.Tensor], callbacks: concurrent.futures.Executor
) -> torch.futures.Future:
    """A torch future that follows the outcome.

    `set_exception` would be seen by Python alone, and C++ (DDP's reducer) would take the exception for the result.
    An error raised in `then` is one for both.
    """

    def value(_: torch.futures.Future) -> list[torch.Tensor]:
        raise_failure(title, done)
        return tensors

    devices: list[torch.device | int | str] = list({tensor.device for tensor in tensors if tensor.is_cuda})
    over: torch.futures.Future = torch.futures.Future(devices=devices)
    future = over.then(value)
    done.add_done_callback(lambda _: run_elsewhere(callbacks, over))
    return future


def run_elsewhere(callbacks: concurrent.futures.Executor, over: torch.futures.Future) -> None:
    try:
        callbacks.submit(over.set_result, None)
    except RuntimeError:  # the group is closed: nothing to wait for is in flight any more
        over.set_result(None)


def join(outcomes: Sequence[Outcome], finish: Callable[[], None] | None) -> Outcome:
    """The outcome of all: done when none uses a tensor any more. The first error wins; `finish` runs without one."""
    joined: Outcome = Outcome()
    left = len(outcomes)
    lock = threading.Lock()
    failure: BaseException | None = None

    def one_less(outcome: Outcome) -> None:
        nonlocal left, failure
        with lock:
            left -= 1
            failure = failure or outcome.exception()
            if left:
                return
        settle(joined, failure, finish)

    if not outcomes:
        settle(joined, None, finish)
    for outcome in outcomes:
        outcome.add_done_callback(one_less)
    return joined


def settle(joined: Outcome, failure: BaseException | None, finish: Callable[[], None] | None) -> None:
    try:
        if failure is None and finish is not None:
            finish()
    except BaseException as error:
        failure = error
    if failure is None:
        joined.set_result(None)
    else:
        joined.set_exception(failure)
