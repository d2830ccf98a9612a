"""Which features of a model's projections have to stay on one worker, found by running it once.

The problem: to split a projection one must know which of its output features are used together later (the features of
one head, queries with the keys they meet, gate with up) without knowing how the model's author wrote it.

The idea: every output feature of every projection gets a label, and every tensor computed from it carries an integer
tensor of labels. An operator that moves elements moves the labels. One that computes an element from several *joins*
their labels: products of queries and keys join along the width of a head, a softmax along its dimension, and LayerNorm
joins all features there are. A projection ends it: it may sum over anything, because partial sums can be added up over
the workers. In the end labels that were joined, directly or not, form an *atom*. An attention has as many atoms as
(groups of) heads, an MLP one per hidden unit, a residual stream one.

Cost: one forward pass, with integer copies of its activations. An example of one or two short samples is enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from manyhands.tensor_parallel.derive.operators import Labels, labels_of_result


@dataclass
class Projection:
    """A module that computes `x @ W (+ b)` and nothing else."""

    module: str
    weight: str
    bias: str | None
    transposed: bool
    """Whether the weight is (in, out)."""
    inputs: int
    outputs: int
    first_label: int
    input_labels: list[np.ndarray] = field(default_factory=list)
    """Labels of each call: one per input feature, 0 for features that come from no projection."""


@dataclass
class Findings:
    """What one run of a model shows."""

    projections: dict[str, Projection]
    """The projections, in the order of their first calls."""
    embeddings: dict[str, str]
    """Modules that look rows of a weight up and do nothing else: module -> weight."""
    elsewhere: set[str]
    """Parameters that are used in other ways."""
    atoms: np.ndarray
    """The atom of each label."""
    reads: dict[str, set[int]]
    """Other modules with parameters -> labels of what they got, as far as it came from projections."""
    called: set[str]
    """Modules that ran."""


_PROJECTION = frozenset(["t", "transpose", "view", "_unsafe_view", "expand", "detach", "alias", "mm", "addmm", "bmm"])


def observe(model: nn.Module, run: Callable[[], Any]) -> Findings:
    """Run the model in training and in evaluation and see what is used together.

    Buffers, modes and random generators stay as they were.
    """
    recorder = _Recorder(model)
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices), torch.no_grad(), sdpa_kernel(SDPBackend.MATH), _put_back(model):
        for training in (True, False):
            model.train(training)
            with recorder.watching(), recorder:
                run()
    return recorder.findings()


@contextmanager
def _put_back(model: nn.Module) -> Iterator[None]:
    """Restores modes, buffers, and torch's own fused paths of evaluation, which hide what is computed."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    training = [(module, module.training) for module in model.modules()]
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for module, mode in training:
            module.training = mode
        for buffer, value in buffers:
            buffer.copy_(value)


class _Recorder(TorchDispatchMode):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.names = {id(p): name for name, p in model.named_parameters()}
        self.labels = Labels(WeakTensorKeyDictionary())
        self.projections: dict[str, Projection] = {}
        self.embeddings: dict[str, str] = {}
        self.elsewhere: set[str] = set()
        self.reads: dict[str, set[int]] = {}
        self.called: set[str] = set()
        self.inside: str | None = None
        self.operators: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        if self.inside is not None:
            self.operators.append(name)
            return out
        self.elsewhere |= {self.names[id(arg)] for arg in (*args, *kwargs.values()) if id(arg) in self.names} - {None}
        labels_of_result(self.labels, func, name, args, kwargs, out)
        return out

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Hooks on all modules that may be a projection or an embedding: a weight, maybe a bias, no children."""
        hooks = []
        for name, module in self.model.named_modules():
            own = dict(module.named_parameters(recurse=False))
            hooks.append(module.register_forward_pre_hook(self._read(name)))  # before operators are counted
            plain = own.keys() in ({"weight"}, {"weight", "bias"}) and own["weight"].ndim == 2
            if plain and not next(module.children(), None):
                hooks.append(module.register_forward_pre_hook(self._enter(name)))
                hooks.append(module.register_forward_hook(self._leave(name, own), with_kwargs=True))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _read(self, name: str) -> Callable[..., None]:
        def read(module: nn.Module, args: Any) -> None:
            self.called.add(name)
            found = self.labels.get(args[0]) if args else None
            if found is not None and found.ndim > 2:
                self.reads.setdefault(name, set()).update(found.unique().tolist())

        return read

    def _enter(self, name: str) -> Callable[..., None]:
        def enter(module: nn.Module, args: Any) -> None:
            self.inside, self.operators = name, []

        return enter

    def _leave(self, name: str, own: dict[str, nn.Parameter]) -> Callable[..., None]:
        def leave(module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
            self.inside = None
            given = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
            if len(given) == 1 and isinstance(out, Tensor):
                if self.operators == ["embedding"] and out.shape == (*given[0].shape, own["weight"].shape[1]):
                    self.embeddings[name] = self.names[id(own["weight"])]
                    return
                if self._is_projection(own, given[0], out):
                    self._project(name, own, given[0], out)
                    return
            self.elsewhere |= {self.names[id(p)] for p in own.values()}
            self.labels.join_all(given, [out])

        return leave

    def _is_projection(self, own: dict[str, nn.Parameter], given: Tensor, out: Tensor) -> bool:
        products = sum(name in ("mm", "addmm", "bmm") for name in self.operators)
        sizes = (out.shape[-1], given.shape[-1]) if self._reads_rows() else (given.shape[-1], out.shape[-1])
        biased = "add" in self.operators or "add_" in self.operators
        return (
            products == 1
            and set(self.operators) <= _PROJECTION | ({"add", "add_"} if "bias" in own else set())
            and ("bias" not in own or "addmm" in self.operators or biased)
            and given.shape[:-1] == out.shape[:-1]
            and tuple(own["weight"].shape) == sizes
        )

    def _reads_rows(self) -> bool:
        return "t" in self.operators or "transpose" in self.operators

    def _project(self, name: str, own: dict[str, nn.Parameter], given: Tensor, out: Tensor) -> None:
        known = self.projections.get(name)
        if known is None:
            names = {key: self.names[id(p)] for key, p in own.items()}
            known = self.projections[name] = Projection(
                name, names["weight"], names.get("bias"), not self._reads_rows(),
                given.shape[-1], out.shape[-1], self.labels.new(out.shape[-1]),
            )  # fmt: skip
        known.input_labels.append(self.labels.of_features(given))
        self.labels.set(out, torch.arange(known.outputs).add_(known.first_label).expand(out.shape))

    def findings(self) -> Findings:
        pairs = self.labels.joined()
        count = self.labels.count
        graph = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
        atoms = connected_components(graph, directed=False)[1]
        return Findings(self.projections, self.embeddings, self.elsewhere, atoms, self.reads, self.called)
