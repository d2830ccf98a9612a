"""One stage of a cut model: the model's own forward, of which only the stage's part is computed.

The forward runs from its start as it always does. Up to the stage's first unit nothing is computed: every unit and
every operation between units that the recording knows gives back what was received, or a placeholder where nobody needs
the value. What depends on no parameter (masks, positions) is computed as usual. Then the stage's units run on real
tensors, without anything of ours inside of them, and at the entry of the next stage's first unit an exception ends the
forward. The same operations on the same tensors in the same order give the same bits, forward and backward.

Cost: a microsecond or two for each call of a unit; skipped code costs its Python.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from manyhands.errors import UserError
from manyhands.pipeline.stages.recording import Recording, Value
from manyhands.pipeline.stages.script import Script
from manyhands.pipeline.stages.walk import Walk


class StageModule(nn.Module):
    """Units `[first, last)` of a model.

    Its parameters are the stage's own, under their global names. The model's other parameters may be emptied
    (`parameter.data = torch.empty(0)`). Several stages of one model may be used in turn.

    Args:
        model: the whole model; it stays as it is.
        recording: of this model, here or on another worker.
        first, last: numbers of units.
        entered: called when the stage's first unit is about to be entered, perhaps twice; no torch generator is
            drawn from before.

    Attributes:
        owned: the stage's parameters by their global names.
        receives, sends: what crosses the cut before it and the one after it.

    Raises:
        UserError: there are no such units.
    """

    def __init__(
        self,
        model: nn.Module,
        recording: Recording,
        first: int,
        last: int,
        entered: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__()
        units = recording.units
        if not 0 <= first < last <= len(units):
            raise UserError(
                f"a stage from unit {first} to {last} was asked for, but the model has {len(units)} units "
                f"({', '.join(unit.name for unit in units)}). Every stage needs at least one."
            )
        self.entered = entered
        self.first, self.last = first, last
        self.units = tuple(unit.name for unit in units[first:last])
        self.receives: tuple[Value, ...] = recording.crossing(first)
        self.sends: tuple[Value, ...] = recording.crossing(last)
        mine = range(units[first].first, units[last - 1].last)
        parameters = dict(model.named_parameters())
        self.owned: dict[str, nn.Parameter] = {
            name: parameters[name] for name, p in recording.parameters.items() if any(call in mine for call in p.calls)
        }
        buffers = dict(model.named_buffers())
        self.owned_buffers: dict[str, Tensor] = {
            name: buffers[name] for name, calls in recording.buffers.items() if any(call in mine for call in calls)
        }
        self.__dict__["model"] = model  # not registered: its parameters are not this module's
        self._script = Script(model, recording, mine, self.receives, self.sends, self.owned)

    def forward(self, inputs: Any, received: Sequence[Tensor] = ()) -> Any:
        """Compute the stage.

        Args:
            inputs: the micro-batch, as the whole model takes it: a dict, a tuple or list, or one value.
            received: the values of `receives`.

        Returns:
            The values of `sends`; the model's output for the last stage.

        Raises:
            UserError: the forward did not go as recorded; the message says where.
        """
        return self.run(lambda: _call(self.__dict__["model"], inputs), received)

    def arriving(self, inputs: Any) -> Sequence[Value]:
        """What the stage receives, whatever the inputs: it is made for those of one form."""
        return self.receives

    def run(self, call: Callable[[], Any], received: Sequence[Tensor] = ()) -> Any:
        """Compute the stage as `forward` does, with a function that calls the model."""
        return Walk(self._script, received, self.entered).run(call)

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """The names and parameters of the stage's own, by global name."""
        for name, parameter in self.owned.items():
            yield (f"{prefix}.{name}" if prefix else name), parameter


def _call(model: nn.Module, inputs: Any) -> Any:
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, tuple | list):
        return model(*inputs)
    return model(inputs)
