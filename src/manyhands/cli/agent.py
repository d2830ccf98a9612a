"""`manyhands agent`: lend this machine to runs that are started on others."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path

from manyhands.engine.hosts import Agent, default_token, make_token, read_token
from manyhands.plan import PORT


@dataclass(frozen=True)
class AgentCommand:
    """Lend this machine: manyhands agent, and on another machine manyhands train job.py --hosts here,THIS-ONE

    Runs that know the token may start workers here, which is to say run any program as you. The token and what workers
    say to each other are not encrypted: use a network that you trust. The job's files must be in the same place.
    """

    port: int = PORT
    """Where to listen."""
    address: str = ""
    """Which of this machine's addresses to listen on. Default: all."""
    token: Path | None = None
    """What runs must know. Made when it is not there. Default: token in $MANYHANDS_HOME, or in ~/.manyhands."""
    spare: bool = True
    """Keep a process ready that has torch loaded: runs begin seconds sooner, and it takes 0.3 GB of memory."""

    def run(self, job_arguments: list[str]) -> int:
        path = self.token or default_token()
        if make_token(path):
            print(f"a new token is in {path}: copy it to the same place on the machines that runs are started on.")
        agent = Agent(self.address, self.port, read_token(path), lambda text: print(text, flush=True), self.spare)

        def end(*_: object) -> None:
            raise KeyboardInterrupt

        signal.signal(signal.SIGTERM, end)
        print(f"listening on port {agent.port}; Ctrl-C ends this, and the workers here.", flush=True)
        try:
            agent.serve()
        finally:
            agent.close()
        return 0
