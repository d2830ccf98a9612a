"""`manyhands up`: a controller that runs many jobs on this machine, or on several."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Any

from manyhands.cli.command import Command
from manyhands.cli.interrupts import tell_how_to_end
from manyhands.errors import UsageError, UserError
from manyhands.plan import Option

_REACH_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class Up(Command):
    """Start a controller: a queue of jobs on the slots of a cluster.

        manyhands up --slots 4
        manyhands submit my_job.py --workers 2

    It outlives this command; `manyhands jobs` shows its jobs, and `manyhands down` ends it. A slot is a place for one
    worker. Needs `pip install 'manyhands[jobs]'`.
    """

    slots: Annotated[int | None, Option("N", "as many as there are CUDA devices, else cores")] = None
    """Workers that may run on this machine at once; with --ray, on each node at most."""
    hosts: Annotated[str | None, Option("HOST=N,...", "this machine")] = None
    """Machines with slots: here is this one, any other is NAME or NAME:PORT, and `manyhands agent` runs there. N says
    how many slots each has."""
    ray: Annotated[str | None, Option("HOST:PORT|ray://HOST:PORT|local", "none")] = None
    """A Ray cluster whose nodes are the hosts, as they come and go; with HOST:PORT this machine is one of them. local
    is a Ray of its own on this machine, to try it."""
    policy: Annotated[str, Option("POLICY")] = "priority+elastic+consolidate"
    """Who gets which slots (docs/jobs.md)."""
    shares: Annotated[str, Option("USER=X,...", "the same for all")] = ""
    """Users' shares, for the policy fair: alice=2,bob=1."""
    port: Annotated[int | None, Option("N", "7420, or any if that is taken")] = None
    """Port to listen on: that of the page and the API, on this machine only."""
    foreground: bool = False
    """Stay; Ctrl-C ends the controller, and leaves the jobs running."""

    def run(self, job_arguments: list[str]) -> int:
        from manyhands.engine import HERE
        from manyhands.jobs.controller import Home, Settings, serve, start
        from manyhands.jobs.policies import policy_of

        policy_of(self.policy)
        if self.slots is not None and self.slots < 1:
            raise UsageError(f"--slots must be at least 1; it is {self.slots}.")
        devices = _cuda_devices()
        hosts = {} if self.ray is not None else self._hosts(devices)
        _check_installed("starlette", "uvicorn")
        settings = Settings(
            hosts=hosts,
            ray=self._ray_address(),
            ray_slots=self.slots,
            cuda=bool(devices) and set(hosts) == {HERE},
            policy=self.policy,
            shares={user: float(share) for user, share in _pairs("--shares", self.shares)},
            port=self.port,
        )
        home = Home()

        def ready(found: dict[str, Any]) -> None:
            hosts = found["hosts"]
            slots = f"{sum(hosts.values())} slot(s)" + (f" on {len(hosts)} hosts" if len(hosts) > 1 else "")
            print(f"a controller runs (process {found['pid']}), {slots}, policy {self.policy}, state in {home.path}")
            print(f"page: {found['url']}", flush=True)

        if self.foreground:
            tell_how_to_end()
            serve(home, settings, ready)
        else:
            ready(start(home, settings))
        return 0

    def _ray_address(self) -> str:
        if self.ray is None:
            return ""
        if self.hosts is not None:
            raise UsageError("--hosts and --ray are two ways to say which machines take part. Leave out one.")
        if self.ray in ("", "auto"):
            raise UsageError(
                "--ray needs an address: HOST:PORT, ray://HOST:PORT, or local. No cluster is joined by chance."
            )
        return self.ray

    def _hosts(self, devices: int) -> dict[str, int]:
        from manyhands.engine import HERE

        if self.hosts is None:
            return {HERE: self.slots or devices or os.cpu_count() or 1}
        if self.slots is not None:
            raise UsageError("--slots is for this machine alone; --hosts says how many are on each.")
        hosts = {}
        for name, count in _pairs("--hosts", self.hosts):
            if not count.isdecimal() or int(count) < 1 or name in hosts:
                raise UsageError(f"--hosts {self.hosts}: write NAME=SLOTS for each, once, as in here=4,lab1=8.")
            hosts[name] = int(count)
        _check_reachable([name for name in hosts if name != HERE])
        return hosts


def _check_installed(*names: str) -> None:
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"a controller needs {' and '.join(missing)}: pip install 'manyhands[jobs]', or in a clone of the project "
            "pip install '.[jobs]'"
        )


def _pairs(flag: str, text: str) -> list[tuple[str, str]]:
    """The names and values of a text `NAME=VALUE,NAME=VALUE`."""
    items = [item.strip().partition("=") for item in text.split(",") if item.strip()]
    for name, _, value in items:
        if not name or not value or (flag == "--shares" and not _is_share(value)):
            raise UsageError(
                f"{flag} {text}: write NAME=NUMBER,... as in {'a=2,b=1' if flag == '--shares' else 'here=4'}."
            )
    return [(name, value) for name, _, value in items]


def _is_share(text: str) -> bool:
    try:
        return 0 < float(text) < float("inf")
    except ValueError:
        return False


def _check_reachable(hosts: list[str]) -> None:
    from manyhands.plan import parse_address

    def reach(name: str) -> str | None:
        try:
            with socket.create_connection(parse_address(name, "--hosts: "), _REACH_SECONDS):
                return None
        except OSError as error:
            return f"{name} ({error.strerror or error})"

    if hosts:
        with ThreadPoolExecutor(len(hosts)) as pool:
            missing = [text for text in pool.map(reach, hosts) if text is not None]
        if missing:
            raise UserError(
                f"cannot reach {', '.join(missing)}. Start `manyhands agent` there, or leave them out of --hosts."
            )


def _cuda_devices() -> int:
    """How many CUDA devices this machine has, found without torch."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return len([device for device in visible.split(",") if device.strip() not in ("", "-1")])
    program = shutil.which("nvidia-smi")
    if program is None:
        return 0
    found = subprocess.run([program, "-L"], capture_output=True, text=True, check=False, timeout=30)
    return found.stdout.count("GPU ") if found.returncode == 0 else 0
