"""`manyhands down`: end the controller."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Annotated

from manyhands.cli.command import Command
from manyhands.errors import UserError
from manyhands.plan import Option

_LOOK_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True)
class Down(Command):
    """End the controller; its jobs stop with a checkpoint.

    They stop at their next step boundary, and the next `manyhands up` goes on with them.
    """

    leave: bool = False
    """Let running jobs run; the next `manyhands up` finds them."""
    timeout: Annotated[float, Option("SECONDS")] = 600.0
    """How long to wait for others before giving up."""

    def run(self, job_arguments: list[str]) -> int:
        from manyhands.jobs.controller import Client, Home
        from manyhands.run.lock import is_taken

        home = Home()
        Client(home).post("/api/down", {"leave": self.leave})
        deadline = time.monotonic() + self.timeout
        while is_taken(home.lock):
            if time.monotonic() > deadline:
                raise UserError(f"the controller has not ended within {self.timeout:.0f} s; see {home.log}.")
            time.sleep(_LOOK_SECONDS)
        print("the controller is down" + ("; its jobs run on." if self.leave else "; its jobs wait for the next one."))
        return 0
