"""From a command's declaration to its parser and its help. The one file that knows tyro.

A command is a dataclass. What tyro is told of a field comes from its type, its docstring and its `Option`; groups of
fields that commands share are dataclasses, too, and their fields become the command's own. Flags are looked over before
tyro reads them, so that whatever is wrong with one is said in a sentence that names it.
"""

from __future__ import annotations

import inspect
import math
import re
import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import is_dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from manyhands.cli.declared import Declared, declared, fields_of
from manyhands.cli.look_over import look_over
from manyhands.errors import UsageError

T = TypeVar("T")
_TO_TYPE = re.compile(r"([\w ]+: +)?(sudo )?manyhands [a-z]")
"""A line that is to be typed, perhaps after words that say when."""
_WIDEST = 100
"""Characters of a line of prose, where the terminal has more."""


def parse(command: type[T], called: str, own: Sequence[str], after: Sequence[str]) -> T | None:
    """Read a command's flags; None if help was asked for, and is printed.

    Args:
        called: by which words: "manyhands train".
        own: what follows those, up to `--`.
        after: what follows `--`.

    Raises:
        UsageError: an option is not known, has no or a wrong value, or one is missing.
    """
    asked = "-h" in own or "--help" in own
    if not asked:
        look_over(declared(command), called, own, after, getattr(command, "after_dashes", ""))
    summary, more = _texts(command)
    registry = ConstructorRegistry()
    registry.struct_rule(_rule)
    try:
        return tyro.cli(
            command,
            args=["--help"] if asked else list(own),
            prog=called,
            description=summary,
            config=(tyro.conf.FlagCreatePairsOff,),
            registry=registry,
        )
    except SystemExit:
        if asked:
            if more:
                print(f"\n{more}")
            return None
        raise


def _texts(command: type) -> tuple[str, str]:
    """The first sentence of a command's docstring, and what follows: prose broken at the terminal's width, lines to
    type as they stand."""
    summary, *paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
    width = min(shutil.get_terminal_size().columns, _WIDEST)
    shown = []
    for lines in map(textwrap.dedent, paragraphs):
        if all(_TO_TYPE.match(line) for line in lines.splitlines()):
            shown.append(textwrap.indent(lines, "    "))
        else:
            shown.append(textwrap.fill(lines, width, break_on_hyphens=False))
    return summary, "\n\n".join(shown)


def _rule(info: StructTypeInfo) -> StructConstructorSpec | None:
    """A command as one list of options: tyro would put those of groups last."""
    if not is_dataclass(info.type):
        return None
    found = tuple(_field(each) for each in declared(info.type))
    return StructConstructorSpec(instantiate=partial(_make, info.type), fields=found)


def _make(command: type, **values: Any) -> Any:
    """The command, and its groups, made of the values that were given."""
    parts = {each.field: each for each in fields_of(command)}
    made = {name: _make(each.kind, **values) if each.group else values[name] for name, each in parts.items()}
    return command(**made)


def _field(each: Declared) -> StructFieldSpec:
    default = tyro.MISSING_NONPROP if each.needed else each.default
    shown = f"(default: {each.shown_default})" if each.shown_default else "(required)" if each.needed else ""
    short = (each.option.short,) if each.option.short else None
    if each.kind is bool:
        kind: Any = Annotated[bool, tyro.conf.arg(help_behavior_hint=shown, aliases=short)]
        return StructFieldSpec(each.field, kind, default, each.help)
    form = f"[{each.form}]" if each.option.positional and not each.needed else each.form
    how = tyro.conf.arg(metavar=form, help_behavior_hint=shown, aliases=short)
    named: Any = Annotated[object, _reader(each), how]  # what kind it is, the reader knows
    placed: Any = tyro.conf.Positional[named]
    return StructFieldSpec(each.field, placed if each.option.positional else named, default, each.help)


def _reader(each: Declared) -> PrimitiveConstructorSpec[Any]:
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=each.form,
        instance_from_str=lambda texts: read_value(each, texts[0]),
        is_instance=lambda value: True,
        str_from_instance=lambda value: [str(value)],
    )


def read_value(each: Declared, text: str) -> Any:
    """The value of an option.

    Raises:
        UsageError: it is none of its kind.
    """
    kinds = [kind for kind in get_args(each.kind) if kind is not type(None)] or [each.kind]
    kind = each.kind if get_origin(each.kind) is Literal else kinds[0]
    if get_origin(kind) is Literal:
        if text not in get_args(kind):
            raise UsageError(f"{each.name} {text}: there are {', '.join(get_args(kind))}.")
        return text
    if kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if math.isnan(value):
            what = "a whole number" if kind is int else "a number"
            raise UsageError(f"{each.name} {text}: {each.form} is {what}.")
        return value
    return Path(text) if kind is Path else text
