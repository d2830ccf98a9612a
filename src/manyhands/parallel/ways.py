"""One stage for batches of several forms.

What a stage receives has the shapes that were recorded. A batch of another size, as an evaluation's or a request's,
needs a recording of its own (build.py); the units are the same, and the inputs say by their form which one holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from manyhands.errors import UserError
from manyhands.pipeline.stage import Crossing
from manyhands.pipeline.stages import StageModule

Form = tuple[tuple[tuple[int, ...], torch.dtype], ...]
"""Shapes and dtypes of the tensors of a batch's inputs."""


def form_of(inputs: Any) -> Form:
    """The form of a batch's inputs."""
    return tuple((tuple(tensor.shape), tensor.dtype) for tensor in _tensors(inputs))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)


class Ways(nn.Module):
    """A stage's computation, whatever the form of the batch.

    Args:
        form: that the model was recorded with, a micro-batch's.
        main: the stage for it. It complains about inputs of a form that nobody recorded.
        further: the stages for other forms.
    """

    _main: StageModule
    _further: dict[Form, StageModule]

    def __init__(self, form: Form, main: StageModule, further: Mapping[Form, StageModule]) -> None:
        super().__init__()
        self._form = form
        self.__dict__["_main"] = main  # not registered: parameters and children are the model's
        self.__dict__["_further"] = dict(further)
        self.entered: Callable[[], None] = lambda: None
        for stage in (main, *further.values()):
            stage.entered = self._enter

    def _enter(self) -> None:
        self.entered()

    @property
    def receives(self) -> Sequence[Crossing]:
        return self._main.receives

    @property
    def sends(self) -> Sequence[Crossing]:
        return self._main.sends

    def arriving(self, inputs: Any) -> Sequence[Crossing]:
        """What the stage receives for such inputs.

        Raises:
            UserError: no batch of this form was recorded.
        """
        form = form_of(inputs)
        if form != self._form and form not in self._further:
            known = " or ".join(_words(form) for form in (self._form, *self._further))
            raise UserError(
                f"the stages of the model are made for inputs of shape {known}; these are of {_words(form)}. A "
                "pipeline needs the same shapes in every batch: pad or crop the samples to one length."
            )
        return self._further.get(form, self._main).receives

    def forward(self, inputs: Any, received: Sequence[Tensor] = ()) -> Any:
        stage = self._further.get(form_of(inputs), self._main) if self._further else self._main
        return stage(inputs, received)


def _words(form: Form) -> str:
    return ", ".join(str(list(shape)) for shape, _ in form) or "no tensors"


def as_plain(form: Form) -> list[Any]:
    """A form as JSON can carry it."""
    return [[list(shape), str(dtype).removeprefix("torch.")] for shape, dtype in form]


def from_plain(form: Sequence[Any]) -> Form:
    """The form that `as_plain` gave."""
    return tuple((tuple(shape), getattr(torch, dtype)) for shape, dtype in form)
