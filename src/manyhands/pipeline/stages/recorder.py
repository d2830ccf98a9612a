"""Records a model: one run under a function mode that sees every operation.

A tensor is *tracked* if it depends on a parameter: made by a unit, or by an operation between units with a tracked or
parameter input, or at random (the same draw cannot be made twice). All else (masks, positions) every stage computes
again by running the same code. Tracked tensors carry a mark; marks of tensors made inside a unit tell when they are
read elsewhere past the units' arguments and outputs, which forbids cuts in between.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from manyhands.errors import UserError
from manyhands.pipeline.stages.interpose import Plain, functions_seen, interposed
from manyhands.pipeline.stages.ledger import Ledger, version
from manyhands.pipeline.stages.placeholder import Placeholder, ask, name_of, only_describes, place, tensors, within
from manyhands.pipeline.stages.recording import Call, Operation, Recording
from manyhands.pipeline.stages.structure import Template, leaves
from manyhands.pipeline.stages.undisturbed import undisturbed
from manyhands.pipeline.stages.units import Node, frontier, has_parameters, observe

_READS = frozenset({"item", "tolist", "numpy", "__bool__", "__int__", "__float__", "__index__", "is_nonzero", "equal"})
_DESCRIBES = frozenset(
    {"shape", "size", "dim", "ndim", "dtype", "device", "numel", "stride", "requires_grad", "is_contiguous", "is_cuda"}
)


def record(model: nn.Module, run: Callable[[], Any], at_least: int = 1) -> Recording:
    """Run the model on one micro-batch and note where it can be cut and what crosses every cut.

    The model runs as it is (training mode, autocast) and is left as it was: buffers and random generators too.

    Args:
        run: calls the model once. It is called twice: once to see the tree of calls, once to follow the values.
        at_least: the number of stages wanted. Where lists of layers do not give as many units, modules are opened.

    Raises:
        UserError: the model cannot be cut into that many; the message says where and why.
    """
    with torch.enable_grad(), undisturbed(model):
        roots = observe(model, run)
    if len(roots) != 1:
        raise UserError(f"the model was called {len(roots)} times for one micro-batch; a pipeline needs one call.")
    tried: Recording | None = None
    for wanted in dict.fromkeys((1, at_least, 2 * at_least)):  # more than wanted, where some cuts are not legal
        nodes = frontier(model, roots[0], wanted)
        with undisturbed(model):
            tried = _Recorder(model, nodes).record(run)
        if len(tried.units) >= at_least:
            return tried
    assert tried is not None
    raise UserError(_too_few(tried, at_least))


def _too_few(recording: Recording, at_least: int) -> str:
    names = ", ".join(unit.name for unit in recording.units) or "none"
    count = len(recording.units)
    parts = f"into {count} parts at most" if count > 1 else "nowhere"
    text = f"{at_least} stages were asked for, and the model can be cut {parts} (its units: {names})."
    reasons = dict.fromkeys(recording.refused.values())
    if reasons:
        text += "\nNo cut could be made where " + "; or where ".join(list(reasons)[:3]) + "."
    fewer = f"Ask for at most {count} stages, or build" if count > 1 else "Build"
    return f"{text}\n{fewer} the model of more modules."


class _Recorder(TorchFunctionMode):
    def __init__(self, model: nn.Module, nodes: list[Node]) -> None:
        super().__init__()
        self._model = model
        self._sites = [node for node in nodes if has_parameters(node) or node.gives_gradients]
        self._cursor = 0
        self._inside = ""
        self._ledger = Ledger(model)
        self._calls: list[Call] = []
        self._gaps: list[list[Operation]] = [[]]
        self._described: dict[int, dict[str, None]] = {}
        self._read = False
        self._muted = False
        self._checkpointed = False
        self._inputs: list[Tensor] = []
        self._output: Template = []

    def record(self, run: Callable[[], Any]) -> Recording:
        handlers = {node.module: self._site for node in self._sites}
        with torch.enable_grad(), interposed({**handlers, self._model: self._root}), functions_seen(self._function):
            run()
        if not self._calls:
            raise UserError("the model calls no module that has parameters, so there is nothing to cut between.")
        return self._ledger.finish(
            calls=tuple(self._calls),
            gaps=tuple(map(tuple, self._gaps)),
            described={gap: tuple(names) for gap, names in self._described.items()},
            inputs=tuple((tuple(t.shape), t.dtype) for t in self._inputs),
            output=self._output,
            checkpointed=self._checkpointed,
        )

    # Calls of modules

    def _root(self, plain: Plain, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._inputs = [leaf for leaf in leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        self._ledger.known(self._inputs)
        with self:
            output = plain(*args, **kwargs)
        self._output = self._ledger.outputs(output)
        return output

    def _site(self, plain: Plain, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._inside:
            return plain(*args, **kwargs)
        expected = self._sites[self._cursor] if self._cursor < len(self._sites) else None
        if expected is None or expected.module is not module:
            if next(module.parameters(), None) is None:
                return plain(*args, **kwargs)
            raise UserError(
                f"{place()}: the forward pass called {expected.name if expected else 'nothing more'} here at first, "
                "and another module when it was run again on the same data. Turn off what drops layers at random."
            )
        self._cursor += 1
        return self._unit(expected, plain, args, kwargs)

    def _unit(self, node: Node, plain: Plain, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        ledger, is_unit = self._ledger, has_parameters(node)
        given = list(leaves((args, kwargs)))
        self._checkpointed |= within(torch.utils.checkpoint.__file__)
        ledger.enter(is_unit)
        if is_unit:
            ledger.holds(node.module)
        seen = ledger.look([leaf for leaf in given if isinstance(leaf, Tensor)], f"{node.name}()")
        self._inside, self._read = node.name, False
        try:
            output = plain(*args, **kwargs)
        finally:
            self._inside = ""
        writes = ledger.changes(seen, given, f"what {node.name}() wrote")
        template = ledger.results(output, given, f"the output of {node.name}", constants=not self._read)
        if is_unit:
            self._calls.append(Call(name=node.name, output=template, writes=writes))
            self._gaps.append([])
            ledger.leave()
        else:
            self._gaps[-1].append(Operation(name=node.name, output=template, is_module=True, writes=writes))
        return output

    # Operations

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if self._muted:
            return func(*args, **(kwargs or {}))
        return self._operation(name_of(func), func, args, kwargs or {})

    def _function(self, cls: Any, apply: Plain, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._muted or not self._ledger.running or cls.__module__ == "torch.utils.checkpoint":
            return apply(*args, **kwargs)
        return self._operation(f"{cls.__name__}.apply", partial(self._quietly, apply), args, kwargs)

    def _quietly(self, apply: Plain, *args: Any, **kwargs: Any) -> Any:
        self._muted = True
        try:
            return apply(*args, **kwargs)
        finally:
            self._muted = False

    def _operation(self, name: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        used = [*tensors(args), *tensors(kwargs)]
        present = [t for t in used if self._ledger.tracked(t)]
        if present and only_describes(name, args, self._ledger.tracked):
            return func(*args, **kwargs)
        if self._inside:
            return self._within(name, func, args, kwargs, present)
        return self._between(name, func, args, kwargs, used, present)

    def _within(
        self, name: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], present: list[Tensor]
    ) -> Any:
        seen = self._ledger.look(present, self._inside)
        output = func(*args, **kwargs)
        if present:
            self._read |= name in _READS
            self._ledger.changes(seen, [], "")
            for tensor in tensors(output):
                self._ledger.mark_inner(tensor, self._inside)
        return output

    def _between(
        self,
        name: str,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        used: list[Tensor],
        present: list[Tensor],
    ) -> Any:
        state = _random_state()
        before = [(tensor, version(tensor)) for tensor in used]
        output = func(*args, **kwargs)
        drew = _drew(state)
        if not present and not drew:
            self._ledger.counted(before)
            return output
        changed = any(version(tensor) != old for tensor, old in before)
        if next(tensors(output), None) is None and not changed:
            self._asked(name, func, args, kwargs, present)
            return output
        where = f"{name}() at {place()}"
        self._ledger.look(present, where)
        given = list(leaves((args, kwargs)))
        writes = self._ledger.changes(before, given, f"what {where} wrote")
        template = self._ledger.results(output, given, f"the result of {where}")
        self._gaps[-1].append(Operation(name=name, output=template, random=drew, writes=writes))
        return output

    def _asked(
        self, name: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], present: list[Tensor]
    ) -> None:
        """Something other than a tensor was asked of tracked tensors: does it depend on their elements?"""
        for tensor in present:
            parameter = self._ledger.names.get(id(tensor))
            if parameter is not None:
                self._described.setdefault(len(self._calls), {})[parameter] = None
        if name in _DESCRIBES:
            return
        absent = {
            id(t): Placeholder.of("it", tuple(t.shape), t.dtype, t.device, t.requires_grad and t.is_floating_point())
            for t in present
        }
        try:
            ask(func, args, kwargs, absent)
        except UserError:
            self._ledger.refuse_from(
                len(self._calls), f"the forward pass depends on the value of an activation ({name}() at {place()})"
            )


def _random_state() -> list[Tensor]:
    states = [torch.get_rng_state()]
    if torch.cuda.is_initialized():
        states.append(torch.cuda.get_rng_state())
    return states


def _drew(before: list[Tensor]) -> bool:
    return any(not torch.equal(a, b) for a, b in zip(before, _random_state(), strict=True))
