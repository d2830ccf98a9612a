"""`manyhands convert`: from a run's checkpoint to files that other programs load."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from manyhands.errors import UsageError
from manyhands.run import RunDirectory

_FORMATS = ("safetensors",)


@dataclass(frozen=True)
class Convert:
    """Write the newest whole checkpoint of a run for other programs: manyhands convert RUN --to safetensors

    The file has the model's own names and dtypes. A transformers model becomes a folder that from_pretrained loads.
    """

    directory: tyro.conf.Positional[Path]
    """The run directory."""
    to: str = "safetensors"
    """The format. There is safetensors."""
    output: Path | None = None
    """Where to. A name that ends in .safetensors is a file of the weights alone, any other a folder. Default:
    RUN/model.safetensors, or for a transformers model the folder RUN/model."""

    def run(self, job_arguments: list[str]) -> int:
        if self.to not in _FORMATS:
            raise UsageError(f"--to {self.to}: there is no such format. Formats: {', '.join(_FORMATS)}.")
        directory = RunDirectory.open(self.directory)
        from manyhands.train.convert import convert

        done = convert(directory, self.output, lambda text: print(f"manyhands: {text}", file=sys.stderr))
        loads = ", which from_pretrained loads" if done.pretrained else ""
        print(f"{done.path}: {done.tensors} tensors of step {done.step}{loads}")
        return 0
