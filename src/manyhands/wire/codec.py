"""Messages as data: a frozen dataclass becomes one JSON object, and an object becomes the dataclass that it stands for.

Everything that two processes of a run say to each other is declared once, as a frozen dataclass whose fields have
types; the union of a conversation's dataclasses is what one side may say in it. An object names its dataclass under
`kind`, in snake case: `HandOver(rank=1)` is `{"kind": "hand_over", "rank": 1}`. Whoever decodes says which conversation
it is, and anything else is an error: an unknown kind, a field too many or too few, a value of another type. So a
mistake is found at the door, by name, and not as a `KeyError` where the value would have been used.

Fields may be: int, float, str, bool, None, `Path`, `Literal`, dataclasses and named tuples of these, tuples, `Mapping`s
by str or int, unions of such; and `object`, JSON that the codec does not look into. Values that lie in a field whose
type is one dataclass carry no `kind`; in a union of several they do.

Cost: 3 to 10 microseconds a message on a 2 GHz core; a decoder is built once for every type.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, Union

from manyhands.errors import UserError

KIND = "kind"
"""The field of an object that names its dataclass."""

Data = dict[str, object]
"""A message as JSON: what travels, and what a relay passes on unread."""
M = TypeVar("M")
Decode = Callable[[Any], Any]


class MessageError(Exception):
    """What came is no message of this conversation: says which part of it, and why."""


class Codec(Generic[M]):
    """A conversation: the messages that one side may send in it.

    Args:
        union: a dataclass, or a union of dataclasses (`Pause | Exit`).
    """

    def __init__(self, union: object) -> None:
        members: Any = typing.get_args(union) if _is_union(union) else (union,)
        self._decode = _tagged({kind_of(member): member for member in members})

    def decode(self, data: object) -> M:
        """The message that a JSON object stands for.

        Raises:
            MessageError: it is none of this conversation.
        """
        try:
            return self._decode(data)
        except RecursionError:
            raise MessageError("it is nested too deeply") from None


def decode_as(hint: type[M], data: object) -> M:
    """A value of this type from JSON, which says nothing of its kind.

    Raises:
        MessageError: it is something else.
    """
    try:
        return _decoder(hint)(data)
    except RecursionError:
        raise MessageError("it is nested too deeply") from None


@functools.cache
def kind_of(message: type) -> str:
    """The kind of a dataclass: its name in snake case."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", message.__name__).lower()


def encode(message: object) -> Data:
    """The JSON object of a message. One that is an object already stays as it is: a relay passes on what it does not
    read."""
    if isinstance(message, dict):
        return message
    return {KIND: kind_of(type(message)), **_fields(message)}


def _fields(message: Any) -> Data:
    return {name: write(getattr(message, name)) for name, write in _writers(type(message))}


@functools.cache
def _writers(kind: type) -> tuple[tuple[str, Callable[[Any], object]], ...]:
    """How the fields of a dataclass are written; what JSON can hold as it is, is not looked at again."""
    hints = typing.get_type_hints(kind)
    return tuple((field.name, _writer(hints[field.name])) for field in dataclasses.fields(kind))


@functools.cache
def _writer(hint: Any) -> Callable[[Any], object]:
    if _is_union(hint):
        members = _members(hint)
        if len(_dataclasses(members)) > 1:
            return lambda value: encode(value) if dataclasses.is_dataclass(value) else value
        writers = {writer for writer in map(_writer, members) if writer is not _as_it_is}
        if not writers:
            return _as_it_is
        (writer,) = writers
        return lambda value: None if value is None else writer(value)
    if dataclasses.is_dataclass(hint):
        return _fields
    if hint is Path:
        return str
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        inner = _writer(arguments[0])
        return _as_it_is if inner is _as_it_is else lambda values: [inner(value) for value in values]
    if _is_mapping(origin):
        inner = _writer(arguments[1])
        return _as_it_is if inner is _as_it_is else lambda values: {key: inner(value) for key, value in values.items()}
    return _as_it_is  # named tuples, too: JSON writes them as lists


def _as_it_is(value: Any) -> object:
    return value


# Decoding. Every decoder takes a JSON value and raises `MessageError` with what is wrong; `_within` adds where.


@functools.cache
def _decoder(hint: Any) -> Decode:
    if hint in (Any, object):
        return _as_it_is
    if hint in _PLAIN:
        return _PLAIN[hint]
    if _is_union(hint):
        return _union(hint)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return functools.partial(_literal, arguments)
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return functools.partial(_sequence, _decoder(arguments[0]))
        return functools.partial(_row, tuple, tuple(map(_decoder, arguments)))
    if _is_mapping(origin):
        return functools.partial(_mapping, arguments[0], _decoder(arguments[1]))
    if _is_named_tuple(hint):
        hints = typing.get_type_hints(hint)
        return functools.partial(_row, lambda values: hint(*values), tuple(_decoder(hints[f]) for f in hint._fields))
    if dataclasses.is_dataclass(hint):
        return functools.partial(_object, hint)
    raise TypeError(f"a message cannot have a field of type {hint}")


def _whole_number(value: Any) -> int:
    if type(value) is not int:
        raise MessageError(f"{_brief(value)} is no whole number")
    return value


def _number(value: Any) -> float:
    if type(value) is float:
        return value
    if type(value) is int:
        return float(value)
    raise MessageError(f"{_brief(value)} is no number")


def _text(value: Any) -> str:
    if type(value) is not str:
        raise MessageError(f"{_brief(value)} is no text")
    return value


def _yes_or_no(value: Any) -> bool:
    if type(value) is not bool:
        raise MessageError(f"{_brief(value)} is neither true nor false")
    return value


def _nothing(value: Any) -> None:
    if value is not None:
        raise MessageError(f"{_brief(value)} is not null")


_PLAIN: dict[Any, Decode] = {
    int: _whole_number,
    float: _number,
    str: _text,
    bool: _yes_or_no,
    type(None): _nothing,
    Path: lambda value: Path(_text(value)),
}


def _literal(choices: tuple[Any, ...], value: Any) -> Any:
    if not isinstance(value, str | int) or value not in choices:
        raise MessageError(f"{_brief(value)} is none of {', '.join(map(repr, choices))}")
    return value


def _list(value: Any) -> list[Any] | tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise MessageError(f"{_brief(value)} is no list")
    return value


def _sequence(inner: Decode, value: Any) -> tuple[Any, ...]:
    try:
        return tuple(map(inner, _list(value)))
    except MessageError:
        for index, item in enumerate(_list(value)):  # again, to say which
            _within(f"[{index}]", inner, item)
        raise


def _row(make: Callable[[list[Any]], Any], inner: tuple[Decode, ...], value: Any) -> Any:
    if len(_list(value)) != len(inner):
        raise MessageError(f"it has {len(value)} entries instead of {len(inner)}")
    return make([_within(f"[{index}]", decode, item) for index, (decode, item) in enumerate(zip(inner, value))])  # noqa: B905 lengths are equal


def _mapping(key: type, inner: Decode, value: Any) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise MessageError(f"{_brief(value)} is no object")
    try:
        return {key(name): _within(f"[{name!r}]", inner, item) for name, item in value.items()}
    except ValueError:
        raise MessageError(f"its keys are no {key.__name__}s") from None


def _object(kind: type, value: Any) -> Any:
    """Decode an object as a dataclass of which it is known which it is."""
    if not isinstance(value, dict):
        raise MessageError(f"{_brief(value)} is no object")
    known, needed = _readers(kind)
    values = {}
    for name, item in value.items():
        if name not in known:
            raise MessageError(f"{kind.__name__} has no field {_brief(name)}")
        values[name] = _within(f".{name}", known[name], item)
    if missing := needed - values.keys():
        raise MessageError(f"{kind.__name__} lacks {', '.join(sorted(missing))}")
    try:
        return kind(**values)
    except (ValueError, TypeError, UserError) as error:
        raise MessageError(f"{kind.__name__}: {error}") from None


@functools.cache
def _readers(kind: type) -> tuple[dict[str, Decode], frozenset[str]]:
    """How the fields of a dataclass are read, and those that must be there."""
    hints = typing.get_type_hints(kind)
    fields = [field for field in dataclasses.fields(kind) if field.init]
    needed = [f.name for f in fields if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]
    return {field.name: _decoder(hints[field.name]) for field in fields}, frozenset(needed)


def _tagged(kinds: Mapping[str, type]) -> Decode:
    """A decoder of one of several dataclasses, which says which."""

    def decode(value: Any) -> Any:
        if not isinstance(value, dict):
            raise MessageError(f"{_brief(value)} is no object")
        name = value.get(KIND)
        if not isinstance(name, str) or name not in kinds:
            raise MessageError(f"there is no message {_brief(name)} here. There are: {', '.join(sorted(kinds))}")
        return _within(name, functools.partial(_object, kinds[name]), {k: v for k, v in value.items() if k != KIND})

    return decode


def _union(hint: Any) -> Decode:
    """A decoder of a value of one of several types, told apart by its form: null, an object, text and so on."""
    members = _members(hint)
    objects = _dataclasses(members)
    optional = type(None) in members
    decoders = [_decoder(member) for member in members if member not in objects and member is not type(None)]
    if len(objects) == 1:
        decoders.append(_decoder(objects[0]))
    elif objects:
        decoders.append(_tagged({kind_of(member): member for member in objects}))

    def decode(value: Any) -> Any:
        if value is None and optional:
            return None
        errors = []
        for inner in decoders:
            try:
                return inner(value)
            except MessageError as error:
                errors.append(str(error))
        raise MessageError(errors[-1])

    return decode


def _within(place: str, decode: Decode, value: Any) -> Any:
    try:
        return decode(value)
    except MessageError as error:
        text = str(error)
        raise MessageError(f"{place}{text}" if text[:1] in ".[" else f"{place}: {text}") from None


def _members(hint: Any) -> tuple[Any, ...]:
    """The members of a union, the stricter first: a whole number is one before it is a number."""
    return tuple(sorted(typing.get_args(hint), key=lambda member: member is float))


def _dataclasses(members: tuple[Any, ...]) -> list[type]:
    return [member for member in members if dataclasses.is_dataclass(member)]


def _is_union(hint: object) -> bool:
    return typing.get_origin(hint) in (Union, types.UnionType)


def _is_mapping(origin: object) -> bool:
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _is_named_tuple(hint: object) -> bool:
    return isinstance(hint, type) and issubclass(hint, tuple) and hasattr(hint, "_fields")


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
