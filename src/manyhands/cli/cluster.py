"""`manyhands cluster`: what a cluster looks like, as described or as measured."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Annotated

import tyro

from manyhands.cli.cluster_probe import Probe
from manyhands.cli.cluster_tables import print_cluster
from manyhands.cluster import (
    PRESET_HELP,
    PRESETS,
    Cluster,
    format_toml,
    read_cluster,
)
from manyhands.errors import UsageError, UserError


@dataclass(frozen=True)
class Show:
    """Show the nodes and links of a cluster: manyhands cluster show dgx1v"""

    cluster: tyro.conf.Positional[str]
    """A preset (see `manyhands cluster presets`) or a file: TOML, NCCL_TOPO_DUMP_FILE's XML, `nvidia-smi topo -m`."""
    json: bool = False
    """As JSON: `name`, `nodes`, `links`, with bandwidths in bytes/s and latencies in s."""
    toml: bool = False
    """As TOML, to be changed and read again."""

    def run(self, job_arguments: list[str]) -> int:
        if self.json and self.toml:
            raise UsageError("--json and --toml exclude each other.")
        cluster = cluster_of_user(self.cluster)
        if self.json:
            print(json.dumps(asdict(cluster)))
        elif self.toml:
            print(format_toml(cluster), end="")
        else:
            print_cluster(cluster)
        return 0


@dataclass(frozen=True)
class Presets:
    """List the clusters that are known by name."""

    def run(self, job_arguments: list[str]) -> int:
        for name, what in PRESETS.items():
            print(f"{name:12} {what}")
        print(PRESET_HELP)
        return 0


Command = (
    Annotated[Show, tyro.conf.subcommand("show")]
    | Annotated[Presets, tyro.conf.subcommand("presets")]
    | Annotated[Probe, tyro.conf.subcommand("probe")]
)


@dataclass(frozen=True)
class ClusterCommand:
    """Describe clusters: hosts, devices, switches, and the links between them."""

    command: tyro.conf.OmitSubcommandPrefixes[Annotated[Command, tyro.conf.arg(name="")]]

    def run(self, job_arguments: list[str]) -> int:
        return self.command.run(job_arguments)


def cluster_of_user(text: str) -> Cluster:
    """What the command line names; a wrong name is wrong usage."""
    try:
        return read_cluster(text)
    except UserError as error:
        raise UsageError(str(error)) from None
