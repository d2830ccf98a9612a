"""`manyhands convert`: from a run's checkpoint to files that other programs load."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from manyhands.cli.groups import ExistingRun
from manyhands.errors import UsageError
from manyhands.plan import Option
from manyhands.run import RunDirectory

_FORMATS = ("safetensors",)


@dataclass(frozen=True, kw_only=True)
class Convert(ExistingRun):
    """Write the newest whole checkpoint of a run for other programs.

        manyhands convert RUN --to safetensors

    The file has the model's own names and dtypes. A transformers model becomes a folder that from_pretrained loads.
    """

    to: Annotated[str, Option("safetensors")] = "safetensors"
    """The format."""
    output: Annotated[Path | None, Option("PATH", "RUN/model.safetensors, or RUN/model/", short="-o")] = None
    """Where to write it. A name that ends in .safetensors is a file of the weights alone, any other a folder."""

    def run(self, job_arguments: list[str]) -> int:
        if self.to not in _FORMATS:
            raise UsageError(f"--to {self.to}: there is no such format. Formats: {', '.join(_FORMATS)}.")
        directory = RunDirectory.open(self.directory)
        from manyhands.export.convert import convert

        done = convert(directory, self.output, lambda text: print(f"manyhands: {text}", file=sys.stderr))
        loads = ", which from_pretrained loads" if done.pretrained else ""
        print(f"{done.path}: {done.tensors} tensors of step {done.step}{loads}")
        return 0
