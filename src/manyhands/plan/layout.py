"""How a step is divided among workers: data, pipeline and tensor parallel, and sharded. Plain data.

A gang has `dp * pp * tp` workers, a mesh of pipeline ranks x replicas x tensor shards, the last running fastest:
`rank = (stage_rank * dp + replica) * tp + shard`. As text: `pp=2,tp=2,dp=2,schedule=1f1b`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, NamedTuple, get_args

from manyhands.errors import UsageError

Dimension = Literal["pp", "dp", "tp"]
DIMENSIONS: tuple[Dimension, ...] = get_args(Dimension)
"""The mesh's dimensions, outermost first."""

STAGES_PER_RANK = {"vanilla": 1, "gpipe": 1, "1f1b": 1, "interleaved": 2, "zb-h1": 1, "zb-v": 2}
"""The pipeline schedules, and how many stages each gives a rank unless `virtual` says otherwise."""
ZERO_BUBBLE = ("zb-h1", "zb-v")
"""The schedules that take the gradients of inputs and of weights apart."""

_COUNTS = ("dp", "pp", "tp", "shard", "virtual")


class Coordinates(NamedTuple):
    """A worker's place in the mesh."""

    stage_rank: int
    replica: int
    shard: int


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How many ways each thing is divided.

    Raises:
        UsageError: the values do not fit together; says what to change.
    """

    dp: int = 1
    """Replicas that share the micro-batches."""
    pp: int = 1
    """Pipeline ranks: the model's layers are divided among them."""
    tp: int = 1
    """Workers that divide every layer among them."""
    shard: int = 0
    """What replicas divide instead of each holding all of it (ZeRO): 1 the optimizer's state, 2 also gradients,
    3 also weights. Needs dp > 1."""
    virtual: int | None = None
    """Stages per pipeline rank. None: what the schedule is made for (2 for interleaved and zb-v, else 1)."""
    schedule: str = "1f1b"
    """The order in which a pipeline rank works."""
    cuts: tuple[str | int, ...] = ()
    """The units with which the second and later stages begin: names, or indices into the model's units. Empty:
    balanced by measurement."""

    def __post_init__(self) -> None:
        cuts = (int(cut) if isinstance(cut, str) and cut.isdecimal() else cut for cut in self.cuts)
        object.__setattr__(self, "cuts", tuple(cuts))
        _check_counts(self)
        if self.schedule not in STAGES_PER_RANK:
            raise UsageError(f"schedule={self.schedule}: there is none. Schedules: {', '.join(STAGES_PER_RANK)}.")
        _check_fit(self)
        _check_cuts(self)

    @property
    def workers(self) -> int:
        """Size of the gang."""
        return self.dp * self.pp * self.tp

    @property
    def split(self) -> bool:
        """Whether any worker holds less than the whole model and its state."""
        return self.pp > 1 or self.tp > 1 or self.shard > 0

    @property
    def stages_per_rank(self) -> int:
        return self.virtual or (STAGES_PER_RANK[self.schedule] if self.pp > 1 else 1)

    @property
    def stages(self) -> int:
        """Parts that the model is cut into."""
        return self.pp * self.stages_per_rank

    def coordinates(self, rank: int) -> Coordinates:
        if not 0 <= rank < self.workers:
            raise IndexError(f"rank {rank} of {self.workers}")
        above, shard = divmod(rank, self.tp)
        return Coordinates(*divmod(above, self.dp), shard)

    def rank_of(self, stage_rank: int, replica: int = 0, shard: int = 0) -> int:
        here = Coordinates(stage_rank, replica, shard)
        if not all(0 <= place < size for place, size in zip(here, (self.pp, self.dp, self.tp), strict=True)):
            raise IndexError(f"{here} in a mesh of {self.pp} x {self.dp} x {self.tp}")
        return (stage_rank * self.dp + replica) * self.tp + shard

    def peers(self, rank: int, dimension: Dimension) -> tuple[int, ...]:
        """The ranks, in order and with `rank` itself, that differ from it at most in this dimension."""
        here = self.coordinates(rank)
        index = DIMENSIONS.index(dimension)
        step = (self.dp * self.tp, self.tp, 1)[index]
        return tuple(rank + (place - here[index]) * step for place in range(getattr(self, dimension)))

    def groups(self, dimension: Dimension) -> Iterator[tuple[int, ...]]:
        """All sets of peers along a dimension, in order of their first rank."""
        for rank in range(self.workers):
            peers = self.peers(rank, dimension)
            if peers[0] == rank:
                yield peers

    def as_dict(self) -> dict[str, Any]:
        """Plain data that JSON can hold and `Layout(**data)` takes."""
        return {field.name: getattr(self, field.name) for field in fields(self)} | {"cuts": list(self.cuts)}

    def __str__(self) -> str:
        """The shortest text that parses to it."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        differing = {name: value for name, value in given.items() if value != _DEFAULTS[name]}
        if self.cuts:
            differing["cuts"] = "/".join(map(str, self.cuts))
        return ",".join(f"{name}={value}" for name, value in (differing or {"dp": 1}).items())

    @staticmethod
    def parse(text: str, workers: int | None = None) -> Layout:
        """Read `pp=2,tp=2,dp=2,schedule=1f1b`. Where dp is left out it follows from the number of workers, if given.

        Raises:
            UsageError: a key or value is wrong, or another number of workers was asked for.
        """
        values = _read(text)
        if workers is not None and "dp" not in values:
            parts = values.get("pp", 1) * values.get("tp", 1)
            values["dp"] = _replicas(text, parts, workers)
        layout = Layout(**values)
        if workers is not None and layout.workers != workers:
            raise UsageError(
                f"layout {text} has {layout.workers} workers and {workers} were asked for. Leave out --workers, or "
                f"leave out dp, which then follows."
            )
        return layout


def complete(layout: Layout, workers: int) -> Layout:
    """The same layout with as many replicas as make up this number of workers.

    Raises:
        UsageError: that many workers cannot be divided so.
    """
    if layout.workers == workers:
        return layout
    return replace(layout, dp=_replicas(str(layout), layout.pp * layout.tp, workers))


_DEFAULTS = {field.name: field.default for field in fields(Layout)}


def _replicas(text: str, parts: int, workers: int) -> int:
    if workers < 1:
        raise UsageError(f"--workers must be at least 1; it is {workers}.")
    if parts < 1 or workers % parts == 0:
        return max(1, workers // max(1, parts))  # a pp or tp below one is refused when the layout is made
    down = workers // parts * parts
    near = f"{down} or {down + parts}" if down else str(parts)
    raise UsageError(
        f"{workers} workers cannot be laid out as {text}: one replica takes {parts} (pp x tp). Use --workers {near}."
    )


def _read(text: str) -> dict[str, Any]:
    """The values of a layout's text, by key."""
    values: dict[str, Any] = {}
    for item in filter(None, (item.strip() for item in text.split(","))):
        key, equals, value = (part.strip() for part in item.partition("="))
        if key not in _DEFAULTS:
            raise UsageError(f"layout {text}: there is no {key!r}. A layout has {', '.join(_DEFAULTS)}.")
        if not equals or not value:
            raise UsageError(f"layout {text}: {key} has no value. Write {key}=VALUE.")
        if key in values:
            raise UsageError(f"layout {text}: {key} is given twice. Give it once.")
        values[key] = _value(text, key, value)
    if not values:
        raise UsageError("the layout is empty. Write for example pp=2,dp=2,schedule=1f1b.")
    return values


def _value(text: str, key: str, value: str) -> Any:
    if key == "schedule":
        return value
    if key == "cuts":
        return tuple(value.split("/"))
    try:
        return int(value)
    except ValueError:
        raise UsageError(f"layout {text}: {key} is a number; {value!r} is none.") from None


def _check_counts(layout: Layout) -> None:
    for name in _COUNTS:
        value = getattr(layout, name)
        if value is None and name == "virtual":
            continue
        if isinstance(value, bool) or not isinstance(value, int):
            raise UsageError(f"layout: {name} is a number; {value!r} is none.")
        if name == "shard":
            if not 0 <= value <= 3:
                raise UsageError(f"shard={value}: ZeRO has stages 0 (off), 1, 2 and 3.")
        elif value < 1:
            raise UsageError(f"{name}={value}: must be at least 1.")


def _check_fit(layout: Layout) -> None:
    if layout.shard and layout.dp == 1:
        raise UsageError(
            f"shard={layout.shard} divides state among replicas, and there is one. Set dp to 2 or more, or leave out "
            "shard."
        )
    if layout.pp == 1:
        for name in ("virtual", "schedule", "cuts"):
            if getattr(layout, name) != _DEFAULTS[name]:
                raise UsageError(f"{name} belongs to a pipeline, and pp is 1. Set pp to 2 or more, or leave it out.")
        return
    expected = STAGES_PER_RANK[layout.schedule]
    if layout.schedule == "interleaved":
        if layout.stages_per_rank < 2:
            raise UsageError("schedule=interleaved gives every rank several stages: virtual is 2 or more. Or use 1f1b.")
    elif layout.stages_per_rank != expected:
        raise UsageError(
            f"schedule={layout.schedule} gives every rank {expected} stage(s), and virtual is {layout.virtual}. Leave "
            "out virtual, or use schedule=interleaved."
        )


def _check_cuts(layout: Layout) -> None:
    cuts = layout.cuts
    if not cuts:
        return
    text = "/".join(map(str, cuts))
    for cut in cuts:
        if isinstance(cut, bool) or not isinstance(cut, str | int) or not str(cut) or set(str(cut)) & set("/,= "):
            raise UsageError(f"cuts={text}: {cut!r} is neither the name nor the index of a unit.")
    if len(cuts) != layout.stages - 1:
        raise UsageError(
            f"cuts={text} cuts the model into {len(cuts) + 1} stages, and there are {layout.stages}. Name the unit "
            f"that begins each stage but the first: {layout.stages - 1} in all."
        )
    numbers = [cut for cut in cuts if isinstance(cut, int)]
    if len(set(cuts)) < len(cuts) or numbers != sorted(numbers) or min(numbers, default=1) < 1:
        raise UsageError(f"cuts={text}: every stage begins after the one before it, and the second at unit 1 or later.")


def as_layout(value: Layout | str | Mapping[str, Any], workers: int | None = None) -> Layout:
    """A layout from whichever form it was kept in; text without dp follows the number of workers."""
    if isinstance(value, Layout):
        return value
    return Layout.parse(value, workers) if isinstance(value, str) else Layout(**value)
