"""`manyhands agent`: lend this machine to runs that are started on others."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from typing import Annotated

from manyhands.cli.command import Command
from manyhands.cli.groups import TokenOption
from manyhands.cli.interrupts import tell_how_to_end
from manyhands.plan import PORT, Option


@dataclass(frozen=True, kw_only=True)
class Agent(Command):
    """Lend this machine to runs that are started on others.

        On this machine: manyhands agent
        On another one: manyhands train job.py --hosts here,THIS-ONE

    Runs that know the token may start workers here, which is to say run any program as you. The token and what workers
    say to each other are not encrypted: use a network that you trust. The job's files must be in the same place.
    """

    port: int = PORT
    """Port to listen on."""
    address: Annotated[str, Option("ADDRESS", "all")] = ""
    """Which of this machine's addresses to listen on."""
    token: TokenOption = field(default_factory=TokenOption)
    """What runs must know."""
    spare: bool = True
    """Do not keep a process ready that has torch loaded: it saves 0.3 GB of memory, and runs begin seconds later."""

    def run(self, job_arguments: list[str]) -> int:
        from manyhands.engine.hosts import Agent as Listener
        from manyhands.engine.hosts import default_token, make_token, read_token

        path = self.token.token or default_token()
        if make_token(path):
            print(f"a new token is in {path}: copy it to the same place on the machines that runs are started on.")
        agent = Listener(self.address, self.port, read_token(path), lambda text: print(text, flush=True), self.spare)

        def end(*_: object) -> None:
            raise KeyboardInterrupt

        signal.signal(signal.SIGTERM, end)
        tell_how_to_end()
        print(f"listening on port {agent.port}; Ctrl-C ends this, and the workers here.", flush=True)
        try:
            agent.serve()
        finally:
            agent.close()
        return 0
