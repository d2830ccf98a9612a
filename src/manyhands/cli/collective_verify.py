"""`manyhands collective verify`: whether an MSCCL file computes what it says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from manyhands.cli.command import Command
from manyhands.errors import UsageError, UserError
from manyhands.plan import Option


@dataclass(frozen=True, kw_only=True)
class Verify(Command):
    """Check an MSCCL XML file by symbolic execution.

    manyhands collective verify FILE.xml
    """

    file: Annotated[Path, Option("FILE", positional=True)]
    """The algorithm, as MSCCL XML."""

    def run(self, job_arguments: list[str]) -> int:
        from manyhands.collective.formats import read_msccl
        from manyhands.collective.verify_programs import InvalidProgram

        try:
            text = self.file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise UserError(f"{self.file} is not text in UTF-8.") from None
        except OSError as error:
            raise UsageError(f"cannot read {self.file}: {error.strerror or error}.") from None
        algorithm = read_msccl(text, str(self.file))
        try:
            algorithm.verify()
        except InvalidProgram as error:
            raise UserError(f"{self.file} is not a correct {algorithm.operation}: {error}.") from None
        steps = sum(len(program.instructions) for program in algorithm.programs)
        print(
            f"{self.file}: {algorithm.name} is a correct {algorithm.operation} of {len(algorithm.programs)} ranks "
            f"({algorithm.chunks} chunks, {steps} instructions)."
        )
        return 0
