"""What a command declares: its options, with the texts of their help."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from manyhands.plan import Option

_FORMS = {int: "N", float: "X", Path: "PATH", str: "TEXT"}
"""How values look where a field does not say it."""


@dataclass(frozen=True, kw_only=True)
class Declared:
    """A field of a command."""

    field: str
    kind: Any
    """The type of its value."""
    option: Option
    help: str
    default: Any
    needed: bool
    """Whether the option has no default."""

    @property
    def group(self) -> bool:
        """Whether the field is a group of options, which are the command's own."""
        return is_dataclass(self.kind)

    @property
    def switch(self) -> bool:
        """Whether the option takes no value."""
        return self.kind is bool

    @property
    def form(self) -> str:
        """What the option's value looks like."""
        return self.option.form

    @property
    def name(self) -> str:
        """The option's name on the command line: `--run-dir`, or the form of what is told by its place."""
        if self.option.positional:
            return self.form
        return f"--{'no-' if self.default is True else ''}{self.field.replace('_', '-')}"

    @property
    def shown_default(self) -> str:
        """The default in words; empty where it goes without saying."""
        if self.option.default or self.switch:
            return self.option.default
        if isinstance(self.default, float):
            return f"{self.default:g}"
        return "" if self.needed or self.default in (None, "") else str(self.default)


def declared(command: type) -> list[Declared]:
    """All options of a command, those of its groups too."""
    found = []
    for each in fields_of(command):
        found += declared(each.kind) if each.group else [each]
    return found


@cache
def fields_of(command: type) -> tuple[Declared, ...]:
    """The fields of a command or a group."""
    return tuple(_fields(command))


def _fields(command: type) -> Iterator[Declared]:
    hints = get_type_hints(command, include_extras=True)
    texts = _docstrings(command)
    for field in fields(command):
        hint = hints[field.name]
        kind, *notes = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        option = next((note for note in notes if isinstance(note, Option)), Option(""))
        made = None if field.default_factory is MISSING else field.default_factory()
        if not option.form:
            plain = next((each for each in (kind, *get_args(kind)) if each in _FORMS), str)
            option = Option(_FORMS[plain], option.default, option.positional, option.short)
        yield Declared(
            field=field.name,
            kind=kind,
            option=option,
            help=texts.get(field.name, ""),
            default=made if field.default is MISSING else field.default,
            needed=field.default is MISSING and field.default_factory is MISSING,
        )


def _docstrings(command: type) -> dict[str, str]:
    """What is written below each field of a command, in one line; of its bases' fields too."""
    found: dict[str, str] = {}
    for owner in reversed(command.__mro__):
        body = _classes(owner.__module__).get(owner.__name__, []) if is_dataclass(owner) else []
        for statement, below in pairwise(body):
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                match below:
                    case ast.Expr(value=ast.Constant(value=str(text))):
                        found[statement.target.id] = " ".join(text.split())
    return found


@cache
def _classes(module: str) -> dict[str, list[ast.stmt]]:
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {node.name: node.body for node in tree.body if isinstance(node, ast.ClassDef)}
