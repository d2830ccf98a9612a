"""The shape of a nested value (tuples, dicts, dataclasses such as transformers' outputs) as plain data.

A *template* is a nested list that JSON can carry. Its leaves say where each part comes from:

    ["value", 3]         the tensor that the recording numbers 3
    ["parameter", name]  a parameter of the model
    ["argument", 2]      the third leaf of the call's own arguments
    ["constant", x]      None, a bool, a number, a text
    ["missing", why]     anything else: it can be passed on, not used
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from manyhands.errors import UserError

Template = list[Any]
Path = tuple[tuple[str, Any], ...]
"""How to reach a leaf: ("item", index or key) or ("field", name), outermost first."""


class Missing:
    """Stands for something that was made in a part of the model that this worker does not run."""

    def __init__(self, why: str) -> None:
        self.__dict__["_why"] = why

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        raise UserError(self.__dict__["_why"])

    def _refuse(self, *args: object) -> Any:
        raise UserError(self.__dict__["_why"])

    __bool__ = __len__ = __iter__ = __getitem__ = __call__ = __float__ = __int__ = __index__ = _refuse
    __add__ = __radd__ = __mul__ = __rmul__ = __sub__ = __rsub__ = __truediv__ = __rtruediv__ = _refuse


def leaves(value: Any) -> Iterator[Any]:
    """Everything in nested containers that is no container, in a fixed order."""
    kind = type(value)
    if kind is tuple or kind is list:
        for item in value:
            yield from leaves(item)
    elif kind is dict:
        for item in value.values():
            yield from leaves(item)
    elif (parts := _parts(value)) is not None:
        for _, item in parts:
            yield from leaves(item)
    else:
        yield value


def template_of(value: Any, leaf: Callable[[Any], Template]) -> Template:
    """The template of a value; `leaf` gives that of everything that is no container."""
    if type(value) in (tuple, list):
        return [type(value).__name__, [template_of(item, leaf) for item in value]]
    if type(value) is dict:
        return ["dict", [[key, template_of(item, leaf)] for key, item in value.items()]]
    parts = _parts(value)
    if parts is None or not _importable(type(value)):
        return leaf(value)
    return ["object", _class_name(type(value)), [[key, template_of(item, leaf)] for key, item in parts]]


def locate(template: Template, kind: str = "value") -> dict[Any, Path]:
    """Where the leaves of a kind are: number (or name) -> path of its first place."""
    found: dict[Any, Path] = {}
    _locate(template, kind, (), found)
    return found


def follow(value: Any, path: Path) -> Any:
    """The leaf at a path.

    Raises:
        LookupError, AttributeError: the value has another shape.
    """
    for step, key in path:
        value = value[key] if step == "item" else getattr(value, key)
    return value


def builder(template: Template) -> Callable[[list[Any], list[Any], Mapping[str, Any]], Any]:
    """A function `(values by number, leaves of the arguments, parameters by name) -> value` for a template."""
    kind, what = template[0], template[1]
    if kind == "value":
        return lambda values, arguments, parameters: values[what]
    if kind == "parameter":
        return lambda values, arguments, parameters: parameters[what]
    if kind == "argument":
        return lambda values, arguments, parameters: arguments[what]
    if kind == "constant":
        return lambda values, arguments, parameters: what
    if kind == "missing":
        return lambda values, arguments, parameters: Missing(what)
    if kind in ("tuple", "list"):
        items = [builder(item) for item in what]
        make = tuple if kind == "tuple" else list
        return lambda values, arguments, parameters: make(item(values, arguments, parameters) for item in items)
    named = [(key, builder(item)) for key, item in (what if kind == "dict" else template[2])]
    if kind == "dict":
        return lambda values, arguments, parameters: {k: b(values, arguments, parameters) for k, b in named}
    cls = _class_of(what)
    return lambda values, arguments, parameters: _construct(
        cls, [(k, b(values, arguments, parameters)) for k, b in named]
    )


def differs(template: Template, value: Any, values: Mapping[int, Any]) -> str | None:
    """Where a value is not what its template says, as text; None if it agrees.

    Args:
        values: tensors that are known; the leaves with their numbers must be these very objects.
    """
    kind, what = template[0], template[1]
    if kind == "value":
        return None if what not in values or value is values[what] else ""
    if kind not in ("tuple", "list", "dict", "object"):
        return None
    if kind in ("tuple", "list"):
        expected: list[Any] = list(enumerate(what))
        found: Any = list(enumerate(value)) if type(value).__name__ == kind else None
    else:
        expected = what if kind == "dict" else template[2]
        found = list(value.items()) if type(value) is dict else _parts(value)
    if found is None or [key for key, _ in found] != [key for key, _ in expected]:
        return ""
    for (key, part), (_, item) in zip(expected, found, strict=True):
        inner = differs(part, item, values)
        if inner is not None:
            return f"[{key!r}]{inner}"
    return None


def has_arguments(template: Template) -> bool:
    """Whether any leaf is taken from the call's own arguments."""
    return bool(locate(template, "argument"))


def _locate(template: Template, kind: str, path: Path, found: dict[Any, Path]) -> None:
    head, what = template[0], template[1]
    if head == kind:
        found.setdefault(what, path)
    elif head in ("tuple", "list"):
        for index, item in enumerate(what):
            _locate(item, kind, (*path, ("item", index)), found)
    elif head == "dict":
        for key, item in what:
            _locate(item, kind, (*path, ("item", key)), found)
    elif head == "object":
        step = "item" if issubclass(_class_of(what), dict | tuple) else "field"
        for key, item in template[2]:
            _locate(item, kind, (*path, (step, key)), found)


def _parts(value: Any) -> list[tuple[Any, Any]] | None:
    """The named parts of a container that is no plain tuple, list or dict; None if it is no container."""
    if isinstance(value, dict):
        return list(value.items())
    if isinstance(value, tuple):  # a named tuple, or torch's own (max, sort)
        return list(enumerate(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(f.name, getattr(value, f.name)) for f in dataclasses.fields(value) if hasattr(value, f.name)]
    return None


def _construct(cls: type, parts: list[tuple[Any, Any]]) -> Any:
    if issubclass(cls, tuple):
        items = [item for _, item in parts]
        return cls(*items) if hasattr(cls, "_fields") else cls(items)  # type: ignore[call-arg]
    if issubclass(cls, dict):  # transformers' ModelOutput is a dict and a dataclass
        return cls(**dict(parts)) if dataclasses.is_dataclass(cls) else cls(parts)
    made = object.__new__(cls)
    for name, item in parts:
        object.__setattr__(made, name, item)
    return made


def _class_name(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _importable(cls: type) -> bool:
    try:
        return _class_of(_class_name(cls)) is cls
    except (ImportError, AttributeError):
        return False


def _class_of(name: str) -> type:
    module, _, path = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return found
