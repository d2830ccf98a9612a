"""Reads the command line and runs a command.

Exit codes: 0 finished, 1 the job failed, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import difflib
import os
import sys
import textwrap
from collections.abc import Mapping, Sequence

from manyhands.cli.catalogue import COMMANDS, GROUPS, Entry
from manyhands.errors import UsageError, UserError

_DESCRIPTION = "Train PyTorch models on whatever machines you have, and always get the same model."
_HELP = ("-h", "--help")
_WIDTH = 100


def main(arguments: list[str] | None = None) -> None:
    """Run the command and exit with its code.

    What follows `--` are the flags of the job file's `job` function, or the command that a lab runs.
    """
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code; whatever goes wrong is one message."""
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    try:
        code = _run(list(arguments[:cut]), list(arguments[cut + 1 :]))
        sys.stdout.flush()
        return code
    except UserError as error:
        print(f"manyhands: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except BrokenPipeError:  # who read our output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"manyhands: {error.filename or 'the system'}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _run(own: list[str], after: list[str]) -> int:
    if own == ["--version"]:
        from manyhands import __version__

        print(f"manyhands {__version__}")
        return 0
    if own[:1] == ["help"]:
        own = [*own[1:], "--help"]
    words: list[str] = []
    entry = Entry(_DESCRIPTION, inner=COMMANDS)
    while entry.inner:
        if not own or own[0] in _HELP:
            print(_overview(words, entry), file=sys.stdout if own else sys.stderr)
            return 0 if own else 2
        entry = _named(words, own[0], entry.inner)
        words.append(own.pop(0))
    from manyhands.cli.parse import parse

    command = parse(entry.load(), " ".join(["manyhands", *words]), own, after)
    return 0 if command is None else command.run(after)


def _named(words: Sequence[str], name: str, commands: Mapping[str, Entry]) -> Entry:
    if name in commands:
        return commands[name]
    called = " ".join(["manyhands", *words])
    near = difflib.get_close_matches(name, commands, 1)
    hint = f"Did you mean `{called} {near[0]}`?" if near else f"`{called} --help` lists what there is."
    raise UsageError(f"there is no command {' '.join([*words, name])!r}. {hint}")


def _overview(words: Sequence[str], entry: Entry) -> str:
    """The commands under a name, in groups."""
    called = " ".join(["manyhands", *words])
    groups = {"Commands": entry.inner} if words else GROUPS
    width = max(map(len, entry.inner))
    lines = [f"usage: {called} COMMAND ...", "", entry.summary]
    for title, commands in groups.items():
        lines += ["", f"{title}:"]
        for name, inner in commands.items():
            indent = f"  {name:{width}}  "
            lines += textwrap.wrap(inner.summary, _WIDTH, initial_indent=indent, subsequent_indent=" " * len(indent))
    lines += ["", f"`{called} COMMAND --help` explains one of them."]
    if not words:
        lines[-1] += " `manyhands --version` says which version this is."
    return "\n".join(lines)
