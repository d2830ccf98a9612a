"""What a script sees when a collective was called wrongly or did not succeed."""

import torch.distributed as dist

from manyhands.errors import UsageError, UserError


class ArgumentError(UsageError, ValueError, RuntimeError):
    """Tensors, ranks or options that do not fit the collective they were given to.

    It is also what other backends raise in such cases, some a `ValueError` and some a `RuntimeError`.
    """


class WaitTimeoutError(UserError, RuntimeError):
    """An operation was not over within the time given to `Work.wait`. It goes on."""


class OperationFailedError(UserError, dist.DistBackendError):
    """A rank was lost, came too late, or called something else. The transport's error is the cause."""
