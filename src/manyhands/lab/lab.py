"""A cluster on one Linux machine: every host a set of namespaces, every link a cable with that link's bandwidth."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import manyhands.lab.plug as plug
from manyhands.cluster import Cluster, format_toml
from manyhands.errors import UserError
from manyhands.lab.inside import CLUSTER_FILE
from manyhands.lab.process import Process, script
from manyhands.lab.remote import RemoteShell
from manyhands.lab.wiring import Cable, End, place_of, wire

MASTER_PORT = 29500
"""The port of rank 0, which is free in a network of one's own."""
_DEADLINE = 30.0
"""Seconds for a lab to end."""
_NET_ADMIN, _SYS_ADMIN = 12, 21


def obstacle() -> str | None:
    """Why there can be no lab here; None if there can."""
    if not hasattr(os, "pidfd_open") or not Path("/proc/self/ns/net").exists():
        return "The lab needs Linux 5.3 or newer with namespaces."
    lines = Path("/proc/self/status").read_text().splitlines()
    capabilities = int(next(line for line in lines if line.startswith("CapEff")).split()[1], 16)
    if os.geteuid() != 0 or not all(capabilities >> bit & 1 for bit in (_NET_ADMIN, _SYS_ADMIN)):
        return "The lab makes network namespaces, which needs root (CAP_NET_ADMIN and CAP_SYS_ADMIN). Run it with sudo."
    if importlib.util.find_spec("pyroute2") is None:
        return "The lab needs pyroute2: pip install 'manyhands[lab]'."
    return None


class Lab:
    """Emulates a cluster until it is closed.

        with Lab(preset("mesh-4")) as lab:
            for process in lab.run_all(["python", "train.py"]):
                process.wait()

    Each host has a network, /dev/shm, System V and POSIX IPC, host name and process numbers of its own; files are
    shared. All hosts reach each other's names (h0, ...), over several hops if need be; over a link's own addresses
    only its two ends reach each other. Nodes with the same `host` share one, and links between them are not
    emulated (see `Cluster.apart`), nor are latencies. Whatever happens to the owner, SIGKILL included, nothing is left
    behind.

    Raises:
        UserError: not root, pyroute2 is missing, or the cluster cannot be emulated.
    """

    def __init__(self, cluster: Cluster) -> None:
        reason = obstacle()
        if reason is not None:
            raise UserError(reason)
        self.cluster = cluster
        self.wiring = wire(cluster)
        self._processes: list[Process] = []
        self._shell: RemoteShell | None = None
        self._keeper = subprocess.Popen(
            script("hold", os.getpid()), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        try:
            self._holders = self._make_places()
            plug.plug(self.wiring, self._holders)
        except BaseException:
            self.close()
            raise

    def _make_places(self) -> dict[str, int]:
        common = {"hosts": self._hosts_file(), "cluster": format_toml(self.cluster)}
        places = [{"name": place, "hostname": place[:64], **common} for place in self.wiring.places]
        assert self._keeper.stdin is not None
        assert self._keeper.stdout is not None
        request = memoryview(json.dumps(places).encode() + b"\n")
        while request:
            request = request[self._keeper.stdin.write(request) :]
        answer = b""
        while not answer.endswith(b"\n"):
            part = self._keeper.stdout.read(65536)
            if not part:
                break
            answer += part
        told = json.loads(answer or b'{"error": "it ended at once"}')
        if "error" in told:
            raise UserError(f"the lab cannot make namespaces: {told['error']}. In a container, start it privileged.")
        return told["holders"]

    def _hosts_file(self) -> str:
        """The text of /etc/hosts: h0 is a host, h0.eth0 one of its interfaces, ::ffff:... what IPv6 sockets see."""
        names = {"127.0.0.1": "localhost"} | {address: host for host, address in self.wiring.hosts.items()}
        names |= {
            e.address: f"{e.place}.{e.interface}" for cable in self.wiring.cables for e in cable.ends if e.address
        }
        return "".join(f"{address}\t{name}\n::ffff:{address}\t{name}.ipv4\n" for address, name in names.items())

    def close(self) -> None:
        """End all that runs in the lab, and the lab."""
        if self._shell is not None:
            self._shell.close()
        for stream in (self._keeper.stdin, self._keeper.stdout):
            if stream is not None:
                stream.close()
        try:
            self._keeper.wait(_DEADLINE)
        except subprocess.TimeoutExpired:
            self._keeper.kill()
            self._keeper.wait()
        while self._processes:  # they were killed with their host
            self._processes.pop().wait(_DEADLINE)

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def addresses(self) -> dict[str, str]:
        """The address of every node's host that all others reach."""
        return {node.name: self.wiring.hosts[place_of(node)] for node in self.cluster.nodes if node.kind != "switch"}

    def interfaces(self, node: str) -> dict[tuple[str, str], End]:
        """Interface and address of a node's links, by (node at the other end, rail)."""
        return {
            (far.node, cable.rail): near
            for cable in self.wiring.cables
            for near, far in cable.directions()
            if near.node == node
        }

    def run(self, node: str, command: Sequence[str], env: Mapping[str, str] | None = None, **options: Any) -> Process:
        """Start a command on a node's host; `env` comes on top of the environment, `options` are those of `Popen`.

        A node that holds data also gets what `environment` says, and all the cluster's description: MANYHANDS_CLUSTER.
        """
        if node not in self.cluster.by_name or place_of(self.cluster.by_name[node]) not in self._holders:
            raise UserError(f"there is no {node} in the lab. It has {', '.join(self.cluster.by_name)}.")
        own = self.environment(node) if node in self.cluster.ranks else {}
        return self._start(place_of(self.cluster.by_name[node]), command, {**own, **(env or {})}, options)

    def _start(self, place: str, command: Sequence[str], env: Mapping[str, str], options: dict[str, Any]) -> Process:
        env = {**os.environ, "MANYHANDS_CLUSTER": CLUSTER_FILE, **env}
        process = Process(self._holders[place], command, env=env, **options)
        self._processes.append(process)
        return process

    def run_all(self, command: Sequence[str], env: Mapping[str, str] | None = None, **options: Any) -> list[Process]:
        """Start a command for every rank. {rank}, {world_size}, {node} and {master} in it are replaced."""
        processes = []
        for rank, node in enumerate(self.cluster.ranks):
            values = {
                "{rank}": str(rank),
                "{world_size}": str(len(self.cluster.ranks)),
                "{node}": node,
                "{master}": self.environment(node)["MASTER_ADDR"],
            }
            processes.append(self.run(node, [_filled(word, values) for word in command], env, **options))
        return processes

    def environment(self, node: str) -> dict[str, str]:
        """What torch.distributed wants to know of a rank, and where rank 0 is."""
        ranks = self.cluster.ranks
        place = place_of(self.cluster.by_name[node])
        local = [rank for rank in ranks if place_of(self.cluster.by_name[rank]) == place]
        return {
            "RANK": str(ranks.index(node)),
            "WORLD_SIZE": str(len(ranks)),
            "LOCAL_RANK": str(local.index(node)),
            "LOCAL_WORLD_SIZE": str(len(local)),
            "MASTER_ADDR": self.addresses[ranks[0]],
            "MASTER_PORT": str(MASTER_PORT),
        }

    def remote_shell(self) -> list[str]:
        """A command that runs inside the lab as `ssh` does outside: COMMAND HOST WORDS...; for mpirun's rsh agent."""
        if self._shell is None:
            self._shell = RemoteShell(
                {host: self._holders[host] for host in self.wiring.hosts},
                lambda host, command, **options: self._start(host, command, {}, options),
            )
        return script("remote")

    def cut(self, a: str, b: str, rail: str = "") -> None:
        """Take down a's interface of the link between a and b; b sees that its own has lost the carrier."""
        plug.cut(self._holders, self._cable(a, b, rail).end_at(a))

    def restore(self, a: str, b: str, rail: str = "") -> None:
        """Undo `cut`."""
        for end in self._cable(a, b, rail).ends:
            plug.restore(self._holders, self.wiring, end)

    def shape(self, a: str, b: str, bandwidth: int, rail: str = "") -> None:
        """Change the bandwidth of the link from a to b, in bytes/s; the other direction stays."""
        plug.shape(self._holders, self._cable(a, b, rail).end_at(a), bandwidth)

    def byte_counters(self) -> dict[tuple[str, str, str], int]:
        """Bytes that every emulated link has carried so far, with their headers, by (source, target, rail)."""
        return plug.bytes_sent(self._holders, self.wiring)

    def _cable(self, a: str, b: str, rail: str) -> Cable:
        for cable in self.wiring.cables:
            if {end.node for end in cable.ends} == {a, b} and cable.rail == rail:
                return cable
        links = ", ".join(f"{c.ends[0].node} - {c.ends[1].node} {c.rail}".strip() for c in self.wiring.cables)
        raise UserError(f"the lab has no link {a} - {b} {rail}".rstrip() + f". It has {links}.")


def _filled(word: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        word = word.replace(name, value)
    return word
