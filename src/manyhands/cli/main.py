"""Reads the command line and runs a command.

Exit codes: 0 finished, 1 the job failed, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import sys
from typing import Annotated

import tyro

from manyhands.cli.agent import AgentCommand
from manyhands.cli.cluster import ClusterCommand
from manyhands.cli.collective import CollectiveCommand
from manyhands.cli.compare import Compare
from manyhands.cli.convert import Convert
from manyhands.cli.down import Down
from manyhands.cli.jobs import JobsCommand
from manyhands.cli.lab import LabCommand
from manyhands.cli.logs import Logs
from manyhands.cli.orders import Cancel, Move, Pause, Resume
from manyhands.cli.report import Report
from manyhands.cli.resize import Resize
from manyhands.cli.show import Show
from manyhands.cli.simulate import Simulate
from manyhands.cli.stop import Stop
from manyhands.cli.submit import Submit
from manyhands.cli.train import Train
from manyhands.cli.up import Up
from manyhands.errors import UsageError, UserError

Command = (
    Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Resize, tyro.conf.subcommand("resize")]
    | Annotated[Show, tyro.conf.subcommand("show")]
    | Annotated[Stop, tyro.conf.subcommand("stop")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Convert, tyro.conf.subcommand("convert")]
    | Annotated[Up, tyro.conf.subcommand("up")]
    | Annotated[Submit, tyro.conf.subcommand("submit")]
    | Annotated[JobsCommand, tyro.conf.subcommand("jobs")]
    | Annotated[Logs, tyro.conf.subcommand("logs")]
    | Annotated[Pause, tyro.conf.subcommand("pause")]
    | Annotated[Resume, tyro.conf.subcommand("resume")]
    | Annotated[Cancel, tyro.conf.subcommand("cancel")]
    | Annotated[Move, tyro.conf.subcommand("move")]
    | Annotated[Down, tyro.conf.subcommand("down")]
    | Annotated[Simulate, tyro.conf.subcommand("simulate")]
    | Annotated[AgentCommand, tyro.conf.subcommand("agent")]
    | Annotated[ClusterCommand, tyro.conf.subcommand("cluster")]
    | Annotated[CollectiveCommand, tyro.conf.subcommand("collective")]
    | Annotated[LabCommand, tyro.conf.subcommand("lab")]
)

_DESCRIPTION = "Train PyTorch models on whatever machines you have, and always get the same model."


def main(arguments: list[str] | None = None) -> None:
    """Run the command and exit with its code.

    What follows `--` are the flags of the job file's `job` function, or the command that a lab runs.
    """
    own = sys.argv[1:] if arguments is None else arguments
    cut = own.index("--") if "--" in own else len(own)
    own, job_arguments = own[:cut], own[cut + 1 :]
    try:
        command = tyro.cli(Command, args=own, prog="manyhands", description=_DESCRIPTION)  # type: ignore[arg-type]
        code = command.run(job_arguments)
    except UserError as error:
        print(f"manyhands: {error}", file=sys.stderr)
        code = 2 if isinstance(error, UsageError) else 1
    except OSError as error:
        print(f"manyhands: {error.filename or 'the system'}: {error.strerror or error}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)
