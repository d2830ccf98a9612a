"""The book that the recorder keeps: which tensors are values, when they were made, used and written, and by whom.

A mark is an attribute on the tensor itself, so it goes wherever the model's code takes the tensor and dies with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from torch import Tensor, nn

from manyhands.pipeline.stages.recording import Call, Operation, Parameter, Recording, Value
from manyhands.pipeline.stages.structure import Template, template_of

_MARK = "_manyhands_recorded"


class _Made:
    """A value in the making."""

    def __init__(self, number: int, tensor: Tensor, time: int, maker: str) -> None:
        self.number, self.tensor, self.made, self.used, self.maker = number, tensor, time, time, maker
        self.written: list[int] = []


class _Inner(NamedTuple):
    """The mark of a tensor that was made inside a unit, at a time."""

    time: int
    maker: str


class Ledger:
    """Times, values, parameters and refusals of one recorded run.

    Attributes:
        names: parameter by `id` -> its global name.
        running: whether the model is being run.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self.names = {id(parameter): name for name, parameter in model.named_parameters()}
        self.running = False
        self._token = object()
        self._values: list[_Made] = []
        self._time = 0
        self._uses: dict[str, dict[int, None]] = {name: {} for name in self.names.values()}
        self._buffers = {id(buffer): name for name, buffer in model.named_buffers()}
        self._buffer_uses: dict[str, dict[int, None]] = {name: {} for name in self._buffers.values()}
        self._counted: dict[str, int] = {}
        self._known: set[int] = set()
        self._refused: dict[int, str] = {}
        self._from: list[tuple[int, str]] = []
        self._hidden: list[tuple[int, int, str]] = []

    # Time

    def known(self, inputs: Iterable[Tensor]) -> None:
        """Take note that the model is called with these inputs."""
        self._known, self.running = {id(tensor) for tensor in inputs}, True

    def enter(self, is_unit: bool) -> None:
        self._time += is_unit

    def leave(self) -> None:
        self._time += 1

    @property
    def _call(self) -> int:
        """The call that whatever happens now belongs to."""
        return max(self._time - 1, 0) // 2

    # Marks

    def tracked(self, tensor: Tensor) -> bool:
        """Whether a tensor depends on parameters."""
        if id(tensor) in self.names or self._mark(tensor) is not None:
            return True
        return tensor.requires_grad and id(tensor) not in self._known

    def mark_inner(self, tensor: Tensor, maker: str) -> None:
        if self._mark(tensor) is None and id(tensor) not in self.names:
            setattr(tensor, _MARK, (self._token, _Inner(self._time, maker)))

    def _mark(self, tensor: Tensor) -> _Made | _Inner | None:
        token, mark = getattr(tensor, _MARK, (None, None))
        return mark if token is self._token else None

    def _new(self, tensor: Tensor, maker: str) -> int:
        made = _Made(len(self._values), tensor, self._time, maker)
        self._values.append(made)
        setattr(tensor, _MARK, (self._token, made))
        return made.number

    # What happens

    def holds(self, module: nn.Module) -> None:
        """Note that a unit is called: its parameters and buffers belong to this call."""
        for parameter in module.parameters():
            self._uses[self.names[id(parameter)]][self._call] = None
        for buffer in module.buffers():
            if id(buffer) in self._buffers:
                self._buffer_uses[self._buffers[id(buffer)]][self._call] = None

    def look(self, used: Iterable[Tensor], reader: str) -> list[tuple[Tensor, int]]:
        """Tensors are used now. Gives them with their versions, for `changes`."""
        seen = []
        for tensor in used:
            seen.append((tensor, version(tensor)))
            name, mark = self.names.get(id(tensor)), self._mark(tensor)
            if name is not None:
                self._uses[name][self._call] = None
            elif isinstance(mark, _Made):
                mark.used = max(mark.used, self._time)
            elif isinstance(mark, _Inner):
                self._hidden_read(mark, reader)
            elif tensor.requires_grad and id(tensor) not in self._known:
                self.refuse_from(1, _unseen(reader))
        return seen

    def counted(self, before: list[tuple[Tensor, int]]) -> None:
        """An operation on nothing that depends on parameters, between units: all stages from here on do it, too."""
        for tensor, old in before:
            if id(tensor) in self._buffers and version(tensor) != old:
                name = self._buffers[id(tensor)]
                self._counted[name] = min(self._counted.get(name, self._call), self._call)

    def changes(self, seen: list[tuple[Tensor, int]], given: list[Any], maker: str) -> tuple[tuple[int, int], ...]:
        """The writes since `look` into tensors that were no values: (leaf of `given`, new value)."""
        writes = []
        for tensor, before in seen:
            if version(tensor) == before:
                continue
            mark = self._mark(tensor)
            if id(tensor) in self._buffers:
                self._buffer_uses[self._buffers[id(tensor)]][self._call] = None
            if isinstance(mark, _Made):
                mark.written.append(self._time)
            elif mark is None and id(tensor) not in self.names:
                index = _index(tensor, given)
                if index is not None:
                    writes.append((index, self._new(tensor, maker)))
        return tuple(writes)

    def results(self, output: Any, given: list[Any], maker: str, constants: bool = True) -> Template:
        """The template of what a call or an operation gave; tensors that are new become values."""

        def leaf(value: Any) -> Template:
            if isinstance(value, Tensor):
                return self._result(value, given, maker)
            number = isinstance(value, bool | int | float)
            if value is None or isinstance(value, str) or (constants and number):
                return ["constant", value]
            index = None if number else _index(value, given)
            if index is not None:
                return ["argument", index]
            return [
                "missing",
                f"{maker} holds a {type(value).__name__}, no tensor: it cannot be sent to a later stage.",
            ]

        return template_of(output, leaf)

    def _result(self, tensor: Tensor, given: list[Any], maker: str) -> Template:
        if id(tensor) in self.names:
            return ["parameter", self.names[id(tensor)]]
        mark = self._mark(tensor)
        if isinstance(mark, _Made):
            return ["value", mark.number]
        if mark is None and not tensor.requires_grad:
            index = _index(tensor, given)
            if index is not None:
                return ["argument", index]
        if isinstance(mark, _Inner):
            self._hidden_read(mark, maker)
        return ["value", self._new(tensor, maker)]

    def outputs(self, output: Any) -> Template:
        """What the model gave."""
        self.running = False

        def leaf(value: Any) -> Template:
            mark = self._mark(value) if isinstance(value, Tensor) else None
            if isinstance(mark, _Made):
                mark.used = self._time + 1
                return ["value", mark.number]
            if isinstance(mark, _Inner):
                self._hidden_read(mark, "the model's output")
            return ["missing", ""]

        return template_of(output, leaf)

    # Refusals

    def refuse_from(self, call: int, why: str) -> None:
        """No cut before this call or any later one: their stages would have to run this code."""
        self._from.append((max(call, 1), why))

    def _hidden_read(self, mark: _Inner, reader: str) -> None:
        if mark.time != self._time:
            why = f"{reader} reads what {mark.maker} computed inside, not from its output"
            self._hidden.append((mark.time, self._time, why))

    def finish(
        self,
        *,
        calls: tuple[Call, ...],
        gaps: tuple[tuple[Operation, ...], ...],
        described: dict[int, tuple[str, ...]],
        inputs: tuple[Any, ...],
        output: Template,
        checkpointed: bool,
    ) -> Recording:
        values = tuple(map(_value, self._values))
        for made in self._values:
            # A tensor that the graph holds and that knows its own record is never collected, nor is the graph.
            delattr(made.tensor, _MARK)
        cuts = range(1, len(calls))
        for made, read, why in self._hidden:
            self._refuse(cuts, lambda k, a=made, b=read: a <= 2 * k and (2 * k < b or b % 2 == 0), why)
        for call, why in self._from:
            self._refuse(cuts, lambda k, first=call: k >= first, why)
        for cut in cuts:
            self._refuse([cut], lambda k: _overwritten(values, k), "a value is overwritten that another is a view of")
        return Recording(
            calls=calls,
            gaps=gaps,
            values=values,
            parameters=self._parameters(),
            buffers=self._used_buffers(len(calls)),
            described=described,
            inputs=inputs,
            output=output,
            refused=self._refused,
            checkpointed=checkpointed,
        )

    def _refuse(self, cuts: Iterable[int], applies: Callable[[int], bool], why: str) -> None:
        for cut in cuts:
            if applies(cut):
                self._refused.setdefault(cut, why)

    def _used_buffers(self, calls: int) -> dict[str, tuple[int, ...]]:
        for name, first in self._counted.items():
            self._buffer_uses[name].update(dict.fromkeys(range(first, calls)))
        return {name: tuple(uses) or (0,) for name, uses in self._buffer_uses.items()}

    def _parameters(self) -> dict[str, Parameter]:
        found, last = {}, 0
        for name, parameter in self._model.named_parameters():
            calls = tuple(sorted(self._uses[name])) or (last,)  # one that is never used stays with the one before it
            last = calls[-1]
            found[name] = Parameter(
                shape=tuple(parameter.shape), dtype=parameter.dtype, requires_grad=parameter.requires_grad, calls=calls
            )
        return found


def _index(value: Any, given: list[Any]) -> int | None:
    return next((i for i, item in enumerate(given) if item is value), None)


def version(tensor: Tensor) -> int:
    """How many times a tensor was written into."""
    return -1 if tensor.is_inference() else tensor._version


def _value(made: _Made) -> Value:
    tensor = made.tensor
    return Value(
        id=made.number,
        shape=tuple(tensor.shape),
        stride=tuple(tensor.stride()),
        dtype=tensor.dtype,
        requires_grad=tensor.requires_grad,
        device=tensor.device.type,
        made=made.made,
        used=made.used,
        written=tuple(made.written),
        storage=tensor.untyped_storage().data_ptr() or -1 - made.number,
        maker=made.maker,
    )


def _overwritten(values: tuple[Value, ...], call: int) -> bool:
    """Whether a value that crosses the cut is written into later, while another that crosses shares its memory."""
    crossing = [value for value in values if value.made <= 2 * call < value.used]
    written = {value.storage for value in crossing if any(time > 2 * call for time in value.written)}
    return any(sum(value.storage == storage for value in crossing) > 1 for storage in written)


def _unseen(reader: str) -> str:
    return (
        f"{reader} uses a tensor that was computed between modules by code that torch does not see; put it in a module"
    )
