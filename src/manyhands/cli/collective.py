"""`manyhands collective`: plan, draw, check and time how data travels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from manyhands.cli.collective_bench import Bench
from manyhands.cli.collective_draw import Draw
from manyhands.cli.collective_plan import Plan
from manyhands.cli.collective_verify import Verify

Command = (
    Annotated[Plan, tyro.conf.subcommand("plan")]
    | Annotated[Draw, tyro.conf.subcommand("draw")]
    | Annotated[Verify, tyro.conf.subcommand("verify")]
    | Annotated[Bench, tyro.conf.subcommand("bench")]
)


@dataclass(frozen=True)
class CollectiveCommand:
    """Plan, draw, check and time collectives: how tensors travel between machines."""

    command: tyro.conf.OmitSubcommandPrefixes[Annotated[Command, tyro.conf.arg(name="")]]

    def run(self, job_arguments: list[str]) -> int:
        return self.command.run(job_arguments)
