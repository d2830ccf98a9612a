"""Looks over a command's flags before they are read: what is unknown, missing or too much, and what was meant."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Sequence

from manyhands.cli.declared import Declared
from manyhands.errors import UsageError

_LIKE = 0.7
"""How alike a wrong name and the right one have to be, at least."""


def look_over(
    options: Sequence[Declared], called: str, own: Sequence[str], after: Sequence[str], after_dashes: str
) -> None:
    """Check that all flags are the command's, have values, and are complete.

    Args:
        called: by which words: "manyhands train".
        own: what follows those, up to `--`.
        after: what follows `--`.
        after_dashes: what may follow there, as a sentence; empty where nothing may.

    Raises:
        UsageError: they are not; says what was meant.
    """
    by_name = {name: each for each in options if not each.option.positional for name in (each.name, each.option.short)}
    places = [each for each in options if each.option.positional]
    strange: list[str] = []
    kept: list[str] = []
    seen: set[str] = set()
    taken = 0
    tokens = list(own)
    while tokens:
        token = tokens.pop(0)
        name, equals, _ = token.partition("=")
        each = by_name.get(name.replace("_", "-"))
        if each is not None:
            kept.append(token)
            seen.add(each.field)
            if not each.switch and not equals:
                if not tokens or _is_flag(tokens[0]):
                    raise UsageError(f"{name} needs a value: {name} {each.form}. {each.help}")
                kept.append(tokens.pop(0))
            elif each.switch and equals:
                raise UsageError(f"{token}: {name} is a switch and takes no value.")
        elif _is_flag(token):
            strange.append(token)
            if not equals and tokens and not _is_flag(tokens[0]) and not tokens[0].endswith(".py"):
                strange.append(tokens.pop(0))  # most likely its value
        elif taken < len(places):
            kept.append(token)
            seen.add(places[taken].field)
            taken += 1
        else:
            strange.append(token)
    if strange:
        raise UsageError(_strange(strange, kept, called, list(by_name), places, after, after_dashes))
    if after and not after_dashes:
        raise UsageError(f"`{called}` takes nothing after --: leave out {shlex.join(after)}.")
    for each in options:
        if each.needed and each.field not in seen:
            how = each.form if each.option.positional else f"{each.name} {each.form}"
            raise UsageError(f"`{called}` needs {how}. {each.help}")


def _is_flag(token: str) -> bool:
    """Whether a token looks like an option, and not like a value or a negative number."""
    return re.match(r"--?[A-Za-z]", token) is not None


def _strange(
    strange: Sequence[str],
    kept: Sequence[str],
    called: str,
    names: Sequence[str],
    places: Sequence[Declared],
    after: Sequence[str],
    after_dashes: str,
) -> str:
    """What to say of flags that are not the command's."""
    name = strange[0].partition("=")[0]
    near = difflib.get_close_matches(name, names, 1, _LIKE) if _is_flag(name) else []
    hint = f"Did you mean {near[0]}?" if near else ""
    if after_dashes:
        corrected = shlex.join([*called.split(), *kept, "--", *strange, *after])
        hint += f"{' ' if hint else ''}{after_dashes}: {corrected}"
    elif not near:
        hint = f"`{called} --help` lists its options."
    if _is_flag(name):
        return f"{name} is no option of `{called}`. {hint}"
    takes = " ".join(each.form for each in places) or "no such argument"
    return f"{name!r} is too much: `{called}` takes {takes}. {hint}"
