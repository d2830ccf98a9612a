"""`manyhands down`: end the controller."""

from __future__ import annotations

import time
from dataclasses import dataclass

from manyhands.errors import UserError

_LOOK_SECONDS = 0.05


@dataclass(frozen=True)
class Down:
    """End the controller. Jobs stop at their next step boundary, with a checkpoint; the next `manyhands up` goes on."""

    leave: bool = False
    """Let running jobs run; the next `manyhands up` finds them."""
    seconds: float = 600.0
    """How long to wait for it."""

    def run(self, job_arguments: list[str]) -> int:
        from manyhands.jobs.controller import Client, Home
        from manyhands.run.lock import is_taken

        home = Home()
        Client(home).post("/api/down", {"leave": self.leave})
        deadline = time.monotonic() + self.seconds
        while is_taken(home.lock):
            if time.monotonic() > deadline:
                raise UserError(f"the controller has not ended within {self.seconds:.0f} s; see {home.log}.")
            time.sleep(_LOOK_SECONDS)
        print("the controller is down" + ("; its jobs run on." if self.leave else "; its jobs wait for the next one."))
        return 0
