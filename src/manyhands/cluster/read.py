"""One door for every form that a cluster comes in."""

from __future__ import annotations

import re
from pathlib import Path

from manyhands.cluster.cluster import Cluster
from manyhands.cluster.files import read_toml
from manyhands.cluster.nccl import read_nccl
from manyhands.cluster.nvidia_smi import read_nvidia_smi
from manyhands.cluster.presets import PRESETS, is_preset, preset
from manyhands.errors import UserError


def read_cluster(text: str | Path) -> Cluster:
    """The cluster of a preset's name, or of a file: TOML, NCCL's topology, or what `nvidia-smi topo -m` prints.

    A file is recognised by what is in it, not by its name.

    Raises:
        UserError: neither a preset nor a file, or a wrong one.
    """
    if isinstance(text, str) and is_preset(text):
        return preset(text)
    path = Path(text)
    if not path.exists():
        raise UserError(
            f"{path} is neither a preset nor a file. Presets: {', '.join(PRESETS)}. "
            "Files: TOML, NCCL_TOPO_DUMP_FILE's XML, the text of `nvidia-smi topo -m`."
        )
    try:
        with path.open("rb") as file:
            start = file.read(4096).decode(errors="replace").removeprefix("\ufeff").lstrip()
    except OSError as error:
        raise UserError(f"cannot read the cluster file {path}: {error}") from None
    if start.startswith("<"):
        return read_nccl(path)
    if re.search(r"^\s*GPU0\s", start, re.MULTILINE):
        return read_nvidia_smi(path)
    return read_toml(path)
