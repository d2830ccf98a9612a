"""Messages survive the wire, and what is none is refused by name."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyhands.errors import UserError
from manyhands.wire import Codec, MessageError, decode_as, encode


class Row(NamedTuple):
    step: int
    loss: float
    norm: float | None
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True)
class InFile:
    path: Path
    step: int


@dataclass(frozen=True, kw_only=True)
class InSlot:
    slot: int
    step: int


@dataclass(frozen=True, kw_only=True)
class Inner:
    names: tuple[str, ...] = ()
    cuts: tuple[str | int, ...] = ()

    def __post_init__(self):
        if "wrong" in self.names:
            raise UserError("no name may be wrong")


@dataclass(frozen=True, kw_only=True)
class Everything:
    number: int
    real: float
    text: str
    flag: bool
    choice: Literal["a", "b"]
    place: Path
    rows: tuple[Row, ...]
    pair: tuple[int, str]
    table: Mapping[str, float]
    by_rank: dict[int, Inner]
    inner: Inner
    kept: InFile | InSlot | None
    one: Inner | None
    anything: object = None


@dataclass(frozen=True, kw_only=True)
class HandOver:
    rank: int = 0


CODEC = Codec(Everything | HandOver)
finite = st.floats(allow_nan=False)
paths = st.text("abc/", min_size=1).map(Path)
inner = st.builds(
    Inner, names=st.lists(st.text("xyz")).map(tuple), cuts=st.lists(st.integers() | st.text("pq")).map(tuple)
)
rows = st.builds(
    Row,
    step=st.integers(),
    loss=finite,
    norm=st.none() | finite,
    spans=st.lists(st.tuples(st.integers(), st.integers())).map(tuple),
)
everything = st.builds(
    Everything,
    number=st.integers(),
    real=finite,
    text=st.text(),
    flag=st.booleans(),
    choice=st.sampled_from(["a", "b"]),
    place=paths,
    rows=st.lists(rows, max_size=3).map(tuple),
    pair=st.tuples(st.integers(), st.text()),
    table=st.dictionaries(st.text(), finite, max_size=3),
    by_rank=st.dictionaries(st.integers(), inner, max_size=2),
    inner=inner,
    kept=st.none()
    | st.builds(InFile, path=paths, step=st.integers())
    | st.builds(InSlot, slot=st.integers(), step=st.integers()),
    one=st.none() | inner,
    anything=st.none() | st.integers() | st.lists(st.text()),
)


def sent(message):
    return json.loads(json.dumps(encode(message)))


@given(everything)
def test_what_is_sent_is_what_comes(message):
    assert CODEC.decode(sent(message)) == message


def test_a_message_names_its_kind():
    assert encode(HandOver(rank=2)) == {"kind": "hand_over", "rank": 2}
    assert CODEC.decode({"kind": "hand_over"}) == HandOver()


def test_what_is_encoded_already_stays_as_it_is():
    data = {"kind": "unknown", "to": "somebody else"}
    assert encode(data) is data


GOOD = sent(
    Everything(
        number=1,
        real=0.5,
        text="",
        flag=True,
        choice="a",
        place=Path("p"),
        rows=(Row(1, 0.5, None, ((1, 2),)),),
        pair=(1, "x"),
        table={"t": 1.0},
        by_rank={3: Inner()},
        inner=Inner(),
        kept=InSlot(slot=1, step=2),
        one=None,
    )
)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "exit"}, "no message 'exit' here. There are: everything, hand_over"),
        ({"kind": None}, "no message None here"),
        ({"kind": ["x"]}, "no message"),
        ({"number": True}, "everything.number: True is no whole number"),
        ({"number": 1.5}, "1.5 is no whole number"),
        ({"real": "1"}, "everything.real: '1' is no number"),
        ({"real": True}, "no number"),
        ({"text": 7}, "everything.text: 7 is no text"),
        ({"flag": 1}, "1 is neither true nor false"),
        ({"choice": "c"}, "'c' is none of 'a', 'b'"),
        ({"choice": ["a"]}, "is none of"),
        ({"rows": [[1, 0.5, None, [[1, 2]]], [1, 0.5, None, [[1, "x"]]]]}, "everything.rows[1][3][0][1]: 'x'"),
        ({"rows": [[1, 0.5, None]]}, "rows[0]: it has 3 entries instead of 4"),
        ({"rows": "abcd"}, "is no list"),
        ({"table": {"t": None}}, "table['t']: None is no number"),
        ({"by_rank": {"x": {}}}, "keys are no ints"),
        ({"inner": {"names": [], "more": 1}}, "everything.inner: Inner has no field 'more'"),
        ({"inner": {"names": ["wrong"]}}, "no name may be wrong"),
        ({"kept": {"slot": 1, "step": 2}}, "no message None here. There are: in_file, in_slot"),
        ({"kept": {"kind": "in_slot", "slot": 1}}, "kept: in_slot: InSlot lacks step"),
        ({"extra": 1}, "Everything has no field 'extra'"),
    ],
)
def test_what_is_no_message_is_refused_by_name(change, words):
    assert CODEC.decode(GOOD).kept == InSlot(slot=1, step=2)
    with pytest.raises(MessageError) as error:
        CODEC.decode(GOOD | change)
    assert words in str(error.value)


@pytest.mark.parametrize("data", [[], None, 7, "text", {}])
def test_what_is_no_object_is_refused(data):
    with pytest.raises(MessageError):
        CODEC.decode(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(st.sampled_from(sorted(GOOD)), json_values)
def test_whatever_comes_is_a_message_or_an_error(field, value):
    try:
        CODEC.decode(GOOD | {field: value})
    except MessageError:
        pass


def test_a_value_is_read_by_its_type():
    assert decode_as(tuple[Row, ...], [[1, 2, None, []]]) == (Row(1, 2.0, None, ()),)
    with pytest.raises(TypeError, match="cannot have a field of type"):
        decode_as(set, [])
