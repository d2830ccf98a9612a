"""What a script can do wrong when it calls a collective."""

from manyhands.errors import UsageError, UserError


class ArgumentError(UsageError, ValueError, RuntimeError):
    """Tensors, ranks or options that do not fit the collective they were given to.

    It is also what other backends raise in such cases, some a `ValueError` and some a `RuntimeError`.
    """


class WaitTimeoutError(UserError, RuntimeError):
    """An operation was not over within the time given to `Work.wait`. It goes on."""
