"""The errors that a user is meant to read.

Everything a user can cause is raised as a `UserError` whose text says what is wrong, where, and what to
change. The command line prints that text alone; any other exception is a fault of ours and keeps its trace.
"""


class UserError(Exception):
    """Something the user can mend. The message is one sentence or a few lines, complete without a trace."""


class UsageError(UserError):
    """Wrong usage: a flag, a path or a job file. The command line exits with 2."""


class JobError(UsageError, ValueError):
    """A `Job` whose values do not fit together."""
