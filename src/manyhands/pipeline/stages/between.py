"""What happens between units in a stage's forward pass: what was recorded is skipped or followed, step by step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, _get_current_function_mode

from manyhands.errors import UserError
from manyhands.pipeline.stages.interpose import Plain
from manyhands.pipeline.stages.placeholder import (
    Placeholder,
    ask,
    describing,
    exchanged,
    name_of,
    only_describes,
    place,
    tensors,
)
from manyhands.pipeline.stages.script import Script, Step
from manyhands.pipeline.stages.structure import follow, leaves

_MARK = "_manyhands_tracked"


class Between(TorchFunctionMode):
    """Sees operations while it watches, which is never inside a unit that computes."""

    def __init__(self, script: Script) -> None:
        super().__init__()
        self._script = script
        self._next = self._position = 0  # the next call; the next operation in the gap before it
        self._skipping = script.first > 0
        self._inside = self._on = False
        self._token = object()
        self._values: list[Tensor] = list(script.base)
        self._sent: dict[int, Tensor] = {}
        self._late: list[tuple[Tensor, int]] = []

    def _watch(self, on: bool) -> None:
        """See operations from now on, or no more."""
        if on == self._on:
            return
        if on:
            self.__enter__()
        elif _get_current_function_mode() is self:
            self.__exit__(None, None, None)
        else:
            return  # the unit is called inside a mode of the user's: ours stays below, and lets everything pass
        self._on = on

    def _expected(self) -> Step | None:
        gap = self._script.gaps[self._next]
        return gap[self._position] if self._position < len(gap) else None

    # Steps

    def _skip(self, step: Step, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Give what a step gave, without computing it."""
        given = list(leaves((args, kwargs))) if step.needs_arguments else []
        for index, number in step.writes:  # a tensor that is there, but whose elements are not: see `Walk._enter`
            if isinstance(self._values[number], Placeholder):
                self._values[number] = given[index]
            else:
                self._late.append((given[index], number))
            self._mark(given[index])
        return step.build(self._values, given, self._script.parameters)

    def _compute(self, plain: Plain, step: Step, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._inside = True
        try:
            output = plain(*args, **kwargs)
        finally:
            self._inside = False
        if step.makes_sent:
            self._keep(step, output, args, kwargs)
        return output

    def _keep(self, step: Step, output: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Hold on to what the stage sends."""
        try:
            for number, path in step.sent:
                self._sent.setdefault(number, follow(output, path))
            if step.sent_writes:
                given = list(leaves((args, kwargs)))
                for index, number in step.sent_writes:
                    self._sent.setdefault(number, given[index])
        except (LookupError, AttributeError, TypeError):
            raise UserError(f"{step.name} gave a result of another form than when the model was recorded.") from None

    def _follow(self, step: Step, output: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Mark what a computed step made: operations on it are followed in turn."""
        for path in step.values:
            self._mark(follow(output, path))
        if step.writes:
            given = list(leaves((args, kwargs)))
            for index, _ in step.writes:
                self._mark(given[index])

    def _mark(self, tensor: Tensor) -> Tensor:
        setattr(tensor, _MARK, self._token)
        return tensor

    def _tracked(self, tensor: Tensor) -> bool:
        return (
            isinstance(tensor, Placeholder)
            or getattr(tensor, _MARK, None) is self._token
            or isinstance(tensor, nn.Parameter)
        )

    def _involved(self, values: Iterable[Any]) -> bool:
        """Whether a tracked tensor is among nested arguments. Runs for every operation between units."""
        for value in values:
            if isinstance(value, Tensor):
                if self._tracked(value):
                    return True
            elif (isinstance(value, tuple | list) and self._involved(value)) or (
                isinstance(value, dict) and self._involved(value.values())
            ):
                return True
        return False

    def _absent(self, tensor: Tensor) -> bool:
        return isinstance(tensor, Placeholder) or id(tensor) in self._script.absent

    # Operations

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._inside:
            return func(*args, **kwargs)
        return self._operation(func, func, args, kwargs)

    def _function(self, cls: Any, apply: Plain, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._inside or not self._on or cls.__module__ == "torch.utils.checkpoint":
            return apply(*args, **kwargs)
        return self._operation(f"{cls.__name__}.apply", partial(self._quietly, apply), args, kwargs)

    def _quietly(self, apply: Plain, *args: Any, **kwargs: Any) -> Any:
        self._inside = True
        try:
            return apply(*args, **kwargs)
        finally:
            self._inside = False

    def _operation(self, named: Any, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        involved = self._involved(args) or (bool(kwargs) and self._involved(kwargs.values()))
        if not involved and not self._script.draws:
            return func(*args, **kwargs)
        step = self._expected()
        if not involved and (step is None or not step.random):
            return func(*args, **kwargs)
        name = named if isinstance(named, str) else name_of(named)
        if step is not None and not step.is_module and step.name == name:
            return self._step(step, func, args, kwargs)
        if not involved:
            return func(*args, **kwargs)
        if only_describes(name, args, self._tracked):
            return func(*exchanged(args, self._describing), **exchanged(kwargs, self._describing))
        return self._answer(name, func, args, kwargs)

    def _step(self, step: Step, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._position += 1
        if self._skipping:
            return self._skip(step, args, kwargs)
        output = func(*args, **kwargs)
        if step.makes_sent:
            self._keep(step, output, args, kwargs)
        self._follow(step, output, args, kwargs)
        return output

    def _answer(self, name: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Something that was not recorded: a question about shapes and the like, or another way through the code."""
        if any(map(self._absent, tensors(args))) or any(map(self._absent, tensors(kwargs))):
            return ask(func, args, kwargs, self._script.absent)
        output = func(*args, **kwargs)
        if next(tensors(output), None) is not None:
            step = self._expected()
            raise UserError(
                f"{place()}: {name}() was called, where {step.name if step else 'nothing more'} followed when the "
                "model was recorded. Code between layers that depends on the data cannot be cut: put it into a module."
            )
        return output

    def _describing(self, tensor: Tensor) -> Tensor:
        return describing(tensor, self._script.absent)
