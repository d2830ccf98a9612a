"""The command line: one thin file per command. Nothing here imports torch."""

from manyhands.cli.main import main

__all__ = ["main"]
