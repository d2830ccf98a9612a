"""How a field of a dataclass is written on the command line. Data alone: whoever declares options imports no parser."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Option:
    """How an option is written on the command line: `workers: Annotated[int | None, Option("N")] = None`."""

    form: str
    """What the option's value looks like: N, MIN:MAX, HOST,... (docs/cli.md)."""
    default: str = ""
    """What holds where the option is not given, in words. Empty: the field's default is shown."""
    positional: bool = False
    """Whether the option is told by its place, not by its name."""
    short: str = ""
    """One letter that may stand for the name, as in -f."""
