"""One forward pass of a stage, step by step. See stage_module.py for the idea."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from manyhands.errors import UserError
from manyhands.pipeline.stages.between import Between
from manyhands.pipeline.stages.interpose import Plain, functions_seen, interposed
from manyhands.pipeline.stages.placeholder import Placeholder, place
from manyhands.pipeline.stages.recording import Value
from manyhands.pipeline.stages.script import Script
from manyhands.pipeline.stages.structure import differs, leaves


class _Leave(BaseException):
    """The stage's work is done. No user's `except Exception` may catch it."""


class Walk(Between):
    """A forward pass of a stage.

    Args:
        script: what the stage does.
        received: the values of `script.receives`.
        entered: called before the stage's first unit.
    """

    def __init__(self, script: Script, received: Sequence[Tensor], entered: Callable[[], None]) -> None:
        super().__init__(script)
        self._entered = entered
        if len(received) != len(script.receives):
            raise ValueError(f"the stage receives {len(script.receives)} values, not {len(received)}")
        for value, tensor in zip(script.receives, received, strict=True):
            _check(value.maker, value.shape, value.dtype, tensor)
            self._values[value.id] = self._mark(_laid_out(value, tensor, value.id in script.copied))
        for value in script.sends:
            if not isinstance(self._values[value.id], Placeholder):
                self._sent[value.id] = self._values[value.id]

    def run(self, call: Callable[[], Any]) -> Any:
        """The stage's values to send; the output, if it is the last."""
        script = self._script
        handlers = {
            **dict.fromkeys(script.between, self._module),
            **dict.fromkeys(script.modules, self._unit),
            script.model: self._root,
        }
        try:
            with ExitStack() as stack:
                stack.enter_context(interposed(handlers))
                if script.sees_functions:
                    stack.enter_context(functions_seen(self._function))
                output = call()
        except _Leave:
            return tuple(map(self._leaving, script.sends))
        if self._next < len(script.calls):
            name = script.calls[self._next].name
            raise UserError(f"the forward pass ended without calling {name}, which it called when it was recorded.")
        wrong = differs(script.output, output, {value.id: self._values[value.id] for value in script.receives})
        if wrong is not None:
            raise UserError(
                f"output{wrong} of the model is not what it was when the model was recorded. Something collects it "
                "inside the layers, as output_hidden_states does, and earlier ones are elsewhere. Turn that off."
            )
        return output

    def _leaving(self, value: Value) -> Tensor:
        tensor = self._sent.get(value.id)
        if tensor is None:
            raise UserError(f"{value.maker} was not made in this forward pass, as it was when the model was recorded.")
        _check(value.maker, value.shape, value.dtype, tensor)
        return tensor

    def _root(self, plain: Plain, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = [leaf for leaf in leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        for number, (tensor, (shape, dtype)) in enumerate(zip(given, self._script.inputs, strict=False), 1):
            _check(f"input {number} of the model", shape, dtype, tensor)
        self._watch(self._skipping or self._script.counted >= 0)
        try:
            return plain(*args, **kwargs)
        finally:
            self._watch(False)

    def _unit(self, plain: Plain, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._inside:
            return plain(*args, **kwargs)
        script, number = self._script, self._next
        if number >= len(script.modules) or script.modules[number] is not module:
            raise UserError(_another(script, number, module))
        if number == script.last:
            raise _Leave
        self._next, self._position = number + 1, 0
        step = script.calls[number]
        if number < script.first:
            output = self._skip(step, args, kwargs)
            if script.checkpointed and number == script.first - 1:
                self._entered()  # a checkpoint around the first unit keeps the random state before it calls the unit
            return output
        self._watch(False)
        if number == script.first:
            self._enter()
        output = self._compute(plain, step, args, kwargs)
        if number < script.counted:
            self._follow(step, output, args, kwargs)
            self._watch(True)
        return output

    def _enter(self) -> None:
        """The stage's first unit comes next."""
        self._skipping = False
        for tensor, number in self._late:
            self._values[number] = tensor.copy_(self._values[number])
            if number in self._sent:
                self._sent[number] = tensor
        self._entered()

    def _module(self, plain: Plain, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A module without parameters, called between units."""
        step = None if self._inside or not self._on else self._expected()
        if step is None or not step.is_module or self._script.by_name[step.name] is not module:
            return plain(*args, **kwargs)
        self._position += 1
        if self._skipping:
            return self._skip(step, args, kwargs)
        self._watch(False)
        output = self._compute(plain, step, args, kwargs)
        self._follow(step, output, args, kwargs)
        self._watch(True)
        return output


def _laid_out(value: Value, tensor: Tensor, copied: bool) -> Tensor:
    """The received tensor with the strides it had where it was made: for others a kernel may sum in another order."""
    if tensor.stride() != value.stride and not tensor.is_meta and 0 not in value.stride:
        order = sorted(range(tensor.dim()), key=lambda d: -value.stride[d])
        back = [order.index(d) for d in range(tensor.dim())]
        return tensor.permute(order).clone(memory_format=torch.contiguous_format).permute(back)
    return tensor.clone() if copied else tensor


def _check(what: str, shape: tuple[int, ...], dtype: torch.dtype, tensor: Tensor) -> None:
    if tuple(tensor.shape) == shape and tensor.dtype == dtype:
        return
    raise UserError(
        f"{what} has shape {list(tensor.shape)} ({tensor.dtype}), but had {list(shape)} ({dtype}) when the model was "
        "recorded. A pipeline needs the same shapes in every micro-batch: pad or crop the samples to one length."
    )


def _another(script: Script, number: int, module: nn.Module) -> str:
    expected = script.calls[number].name if number < len(script.calls) else "nothing more"
    name = next((name for name, known in script.by_name.items() if known is module), type(module).__name__)
    return (
        f"{place()}: the forward pass called {name}, where it called {expected} when the model was recorded. "
        "A model whose layers are called in another order, or not always, cannot be cut there."
    )
