"""Cutting a model whose modules cannot be cut between: one big forward over functions, or a single custom module.

`torch.export` gives the forward as a graph of operators, the same that the model calls, so the bits are the same. The
graph is cut into segments where few values cross, balanced by the bytes of the parameters that are used first in each.
A segment is a module that owns no parameters but names those it uses, so the whole is a model of units with the
parameters, buffers and names of the original.
"""

from __future__ import annotations

import io
import logging
import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from itertools import count, pairwise
from typing import Any

import torch
from torch import Tensor, fx, nn

from manyhands.errors import UserError
from manyhands.pipeline.stages.interpose import Plain, interposed
from manyhands.pipeline.stages.placeholder import place
from manyhands.pipeline.stages.recorder import record
from manyhands.pipeline.stages.recording import Recording
from manyhands.pipeline.stages.structure import Template, builder, leaves, template_of
from manyhands.pipeline.stages.undisturbed import undisturbed

_EVALUATION: dict[str, Any] = {"train": False, "training": False, "dropout_p": 0.0}
"""Arguments of operators that say whether the model is being trained, and what they are when it is not."""


def cuttable(model: nn.Module, run: Callable[[nn.Module], Any], at_least: int) -> tuple[nn.Module, Recording]:
    """The model, or an exported one in its place if it has too few units for the stages, and its recording.

    Args:
        run: calls the model that it is given once.
        at_least: the number of stages wanted.

    Raises:
        UserError: neither way gives enough units; the message says why.
    """
    try:
        return model, record(model, lambda: run(model), at_least)
    except UserError as error:
        too_few = error
    try:
        made = exported(model, lambda: run(model), 2 * at_least)
        return made, record(made, lambda: run(made), at_least)
    except UserError as error:
        raise UserError(f"{too_few}\nAs a graph of operators it cannot be cut either: {error}") from None


def exported(model: nn.Module, run: Callable[[], Any], segments: int) -> nn.Module:
    """The model as a row of segments.

    Parameters and buffers are the model's own. The way that Python took through the forward is fixed: only operators
    that know of training (dropout, normalisation) behave differently in evaluation.

    Args:
        run: calls the model once, on data like that which will come.
        segments: how many, at most.

    Raises:
        UserError: the forward cannot be exported.
    """
    calls: list[tuple[tuple[Any, ...], dict[str, Any], Template]] = []

    def listen(plain: Plain, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        output = plain(*args, **kwargs)
        order = count()
        calls.append((args, kwargs, template_of(output, lambda leaf: ["argument", next(order)])))
        return output

    with undisturbed(model):
        with interposed({model: listen}):
            run()
        if len(calls) != 1:
            raise UserError(f"the model was called {len(calls)} times for one micro-batch; a pipeline needs one call.")
        args, kwargs, output = calls[0]
        try:
            with (
                torch.enable_grad(),
                torch.autocast("cpu", enabled=False),
                torch.autocast("cuda", enabled=False),
                _quietly(),
            ):
                program: Any = torch.export.export(model, args, kwargs, strict=False).module()
        except Exception as error:
            raise UserError(_failure(error)) from None
    return _Exported(model, program, output, segments)


@contextmanager
def _quietly() -> Iterator[None]:
    """Suppress what torch prints on its way to an exception: the whole graph, several times."""
    logger = logging.getLogger("torch.fx")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(before)


class _Segment(nn.Module):
    """A part of the graph: `forward(*values) -> values`."""

    def __init__(self, graph: fx.Graph, tensors: dict[str, Any], names: dict[int, str]) -> None:
        super().__init__()
        used = {str(node.target): tensors[str(node.target)] for node in graph.nodes if node.op == "get_attr"}
        self.__dict__["_graphs"] = {
            True: fx.GraphModule(used, graph),
            False: fx.GraphModule(used, _evaluating(graph)),
        }
        self.__dict__["_used"] = {names.get(id(t), name): t for name, t in used.items()}

    def forward(self, *values: Any) -> Any:
        return self.__dict__["_graphs"][self.training](*values)

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        yield from ((n, t) for n, t in self.__dict__["_used"].items() if isinstance(t, nn.Parameter))

    def named_buffers(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, Tensor]]:
        yield from ((n, t) for n, t in self.__dict__["_used"].items() if not isinstance(t, nn.Parameter))


class _Exported(nn.Module):
    """The original's modules, which hold the tensors, and the segments, which compute."""

    def __init__(self, model: nn.Module, program: fx.GraphModule, output: Template, segments: int) -> None:
        super().__init__()
        self.training = model.training
        for kind in ("_parameters", "_buffers", "_modules"):
            getattr(self, kind).update(getattr(model, kind))
        targets = [str(node.target) for node in program.graph.nodes if node.op == "get_attr"]
        tensors: dict[str, Any] = {target: operator.attrgetter(target)(program) for target in targets}
        tensors |= dict(model.named_buffers(remove_duplicate=False))
        tensors |= dict(model.named_parameters(remove_duplicate=False))
        names = {id(t): name for name, t in (*model.named_parameters(), *model.named_buffers())}
        nodes = [n for n in program.graph.nodes if n.op in ("call_function", "call_method")]
        bounds = [0, *_cuts(nodes, tensors, segments), len(nodes)]
        parts = [nodes[a:b] for a, b in pairwise(bounds)]
        self._inputs = [n.name for n in program.graph.nodes if n.op == "placeholder"]
        given = next(n for n in program.graph.nodes if n.op == "output").args[0]
        self._outputs = [(part.name, None) if isinstance(part, fx.Node) else ("", part) for part in leaves(given)]
        self._build = builder(output)
        wires = [(_needs(part), _gives(part)) for part in parts]
        self._wires = [([n.name for n in needs], [n.name for n in gives]) for needs, gives in wires]
        made = [_Segment(_subgraph(part, *w), tensors, names) for part, w in zip(parts, wires, strict=True)]
        self.exported_segments = nn.ModuleList(made)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        values = dict(zip(self._inputs, leaves((args, kwargs)), strict=True))
        for segment, (needs, gives) in zip(self.exported_segments, self._wires, strict=True):
            results = segment(*(values[name] for name in needs))
            values.update(zip(gives, results, strict=True))
        return self._build([], [values[name] if name else constant for name, constant in self._outputs], {})


def _needs(part: Sequence[fx.Node]) -> list[fx.Node]:
    """What a part takes from the parts before it and from the inputs."""
    inside = set(part)
    used = (n for node in part for n in node.all_input_nodes)
    return list(dict.fromkeys(n for n in used if n not in inside and n.op != "get_attr"))


def _gives(part: Sequence[fx.Node]) -> list[fx.Node]:
    inside = set(part)
    return [node for node in part if any(user not in inside for user in node.users)]


def _subgraph(part: Sequence[fx.Node], needs: Sequence[fx.Node], gives: Sequence[fx.Node]) -> fx.Graph:
    graph = fx.Graph()
    copies = {node: graph.placeholder(node.name) for node in needs}
    for node in part:
        for source in node.all_input_nodes:
            if source.op == "get_attr" and source not in copies:
                copies[source] = graph.node_copy(source)
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(tuple(copies[node] for node in gives))
    return graph


def _evaluating(graph: fx.Graph) -> fx.Graph:
    """A copy in which operators know that the model is not being trained."""
    made = fx.Graph()
    made.output(made.graph_copy(graph, {}))
    for node in made.nodes:
        schema = getattr(node.target, "_schema", None)
        for index, argument in enumerate(schema.arguments if schema is not None else ()):
            if argument.name in _EVALUATION and index < len(node.args):
                node.update_arg(index, _EVALUATION[argument.name])
            elif argument.name in _EVALUATION and argument.name in node.kwargs:
                node.update_kwarg(argument.name, _EVALUATION[argument.name])
    return made


def _cuts(nodes: Sequence[fx.Node], tensors: dict[str, Any], segments: int) -> list[int]:
    """Where the segments after the first begin: between uses of parameters, balanced by the bytes of new ones."""
    uses: list[tuple[int, int]] = []
    seen: set[int] = set()
    for index, node in enumerate(nodes):
        used = [tensors[str(n.target)] for n in node.all_input_nodes if n.op == "get_attr"]
        held = [t for t in used if isinstance(t, nn.Parameter)]
        if held:
            uses.append((index, sum(t.nbytes for t in held if id(t) not in seen)))
            seen.update(map(id, held))
    total = sum(size for _, size in uses)
    crossing = _crossing(nodes)
    cuts: list[int] = []
    gathered = 0
    for (index, size), (following, _) in pairwise(uses):
        gathered += size
        left = segments - 1 - len(cuts)
        if left and gathered * segments >= total * (len(cuts) + 1):
            cuts.append(min(range(index + 1, following + 1), key=lambda position: crossing[position]))
    return cuts


def _crossing(nodes: Sequence[fx.Node]) -> list[int]:
    """Bytes made before every position and used at or after it."""
    position = {node: index for index, node in enumerate(nodes)}
    changes = [0] * (len(nodes) + 2)
    for index, node in enumerate(nodes):
        last = max((position.get(user, len(nodes)) for user in node.users), default=index)
        size = sum(t.numel() * t.element_size() for t in leaves(node.meta.get("val")) if isinstance(t, Tensor))
        changes[index + 1] += size
        changes[last + 1] -= size
    sums, held = [], 0
    for change in changes:
        held += change
        sums.append(held)
    return sums


def _failure(error: Exception) -> str:
    """What torch.export said, in a line, and where the user's forward stood."""
    where, trace = place(), error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if "/torch/" not in name and "/manyhands/" not in name:
            where = f"{name}:{trace.tb_lineno}"
        trace = trace.tb_next
    text = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return f"torch.export stopped at {where}: {text.strip()}"
