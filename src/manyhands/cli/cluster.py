"""`manyhands cluster`: what a cluster looks like, as described or as measured."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

from manyhands.cli.cluster_tables import print_cluster
from manyhands.cli.command import Command
from manyhands.errors import UsageError, UserError
from manyhands.plan import Option

if TYPE_CHECKING:
    from manyhands.cluster import Cluster


@dataclass(frozen=True, kw_only=True)
class Show(Command):
    """Show the nodes and links of a cluster.

    manyhands cluster show dgx1v
    """

    cluster: Annotated[str, Option("CLUSTER", positional=True)]
    """A preset (see `manyhands cluster presets`) or a file: TOML, NCCL_TOPO_DUMP_FILE's XML, `nvidia-smi topo -m`."""
    json: bool = False
    """Print JSON: `name`, `nodes`, `links`, with bandwidths in bytes/s and latencies in s."""
    toml: bool = False
    """Print TOML, to be changed and read again."""

    def run(self, job_arguments: list[str]) -> int:
        if self.json and self.toml:
            raise UsageError("--json and --toml exclude each other.")
        cluster = cluster_of_user(self.cluster)
        from manyhands.cluster import format_toml

        if self.json:
            print(json.dumps(asdict(cluster)))
        elif self.toml:
            print(format_toml(cluster), end="")
        else:
            print_cluster(cluster)
        return 0


@dataclass(frozen=True, kw_only=True)
class Presets(Command):
    """List the clusters that are known by name."""

    def run(self, job_arguments: list[str]) -> int:
        from manyhands.cluster import PRESET_HELP, PRESETS

        for name, what in PRESETS.items():
            print(f"{name:12} {what}")
        print(PRESET_HELP)
        return 0


def cluster_of_user(text: str) -> Cluster:
    """What the command line names; a wrong name is wrong usage."""
    from manyhands.cluster import read_cluster

    try:
        return read_cluster(text)
    except UserError as error:
        raise UsageError(str(error)) from None
