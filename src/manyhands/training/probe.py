"""Looks closely at a short run: what one step sends, calls and holds, and what the model's units cost.

The last step of the run runs under a dispatch mode that counts operators, below autograd and DTensor: those that
compute, so neither views nor what has no data. It is left out of the timings. Peak memory is what the process has of
its own (no files, nothing shared) above what it had before the model was built; on CUDA, what torch's allocator says.
"""

from __future__ import annotations

import ctypes
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from manyhands.gang import Probing
from manyhands.job import Job
from manyhands.timeline import Recorder
from manyhands.training.cuts import measure_cuts, operators_of
from manyhands.training.trainer import Step, Trainer
from manyhands.transport import Group, sent_bytes

_SMALL, _LARGE = 1 << 10, 1 << 22
"""Bytes of the messages by which links are measured."""
_ROUNDS = {_SMALL: 20, _LARGE: 4}
_MOST_TEXT = 96_000
"""Characters that the units may take in a message."""
_ACTIONS = ("F", "B", "I", "W", "SEND_F", "SEND_B", "RECV_F", "RECV_B")


def shortened(job: Job, steps: int) -> Job:
    """The job, ended after so many steps and not evaluated. The steps are those of the whole job."""
    return replace(job, steps=steps, epochs=None, evaluate=None)


class Probe:
    """What is found out on one worker. Made before the model is built.

    Args:
        recorder: knows in which phase the worker is.
        asked: what is to be found out.

    Attributes:
        figures: plain data, as `docs/run-directory.md` says.
    """

    def __init__(self, recorder: Recorder, asked: Probing) -> None:
        self._recorder = recorder
        self._stages = list(asked.stages)
        self._before = _own_bytes()
        self._began: tuple[float, float, float] | None = None
        self.figures: dict[str, Any] = {}

    def joined(self, group: Group | None) -> None:
        """Measure how fast the links of the gang are, now that it is together."""
        if group is not None:
            self.figures["links"] = _measure_links(group)

    def step(self, trainer: Trainer, flag: Callable[[], int]) -> Step:
        """A step of the trainer; the last one is looked at."""
        if trainer.step == 1:  # the first warms up
            self._began = _clocks()
        if trainer.step + 1 < trainer.total_steps:
            return trainer.train_step(flag)
        if self._began is not None:
            wall, cpu, waited = (now - then for now, then in zip(_clocks(), self._began, strict=True))
            self.figures["cpu_share"] = min(1.0, cpu / max(1e-9, wall - waited))
            self.figures["core_wait"] = waited / wall
        return self._look(trainer, flag)

    def _look(self, trainer: Trainer, flag: Callable[[], int]) -> Step:
        with _Operators(self._recorder) as operators, _watched(trainer.model, operators):
            _forget_peak(trainer.device)
            sent = sent_bytes()
            step = trainer.train_step(flag)
            self.figures["peak_bytes"] = _peak(trainer.device, self._before)
        self.figures |= {
            "sent_bytes": sent_bytes() - sent,
            "operators": operators.total,
            "operators_by_phase": dict(operators.by_phase),
            "actions": dict(operators.actions),
            "cuts": list(trainer.steps.cuts),
        }
        if trainer.group is None:
            self.figures |= _sizes(trainer)
            for cut in self._measure_cuts(trainer).values():
                cut["operators"] = operators_of(cut.get("units", ()), operators.by_module)
        return step

    def _measure_cuts(self, trainer: Trainer) -> dict[str, dict[str, Any]]:
        """What the units of the model cost, for the numbers of stages that were asked for."""
        self._recorder.enter("snapshot")
        self.figures["by_stages"] = found = measure_cuts(trainer, self._stages)
        while len(json.dumps(found)) > _MOST_TEXT:  # the largest; it will count as one that cannot be cut
            largest = max(found, key=lambda count: len(found[count].get("units", ())))
            found[largest] = {"uncut": f"it has {len(found[largest]['units'])} parts, too many to compare"}
        return found


class _Operators(TorchDispatchMode):
    """Counts the operators that compute something, by phase and module, and the actions of a pipeline."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder
        self.by_phase: Counter[str] = Counter()
        self.by_module: Counter[str] = Counter()
        self.actions: Counter[str] = Counter()
        self.module = ""
        """The module whose forward began last."""

    @property
    def total(self) -> int:
        return sum(self.by_phase.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(kind.__torch_dispatch__ is not Tensor.__torch_dispatch__ for kind in types):
            # A tensor of a class of its own: what it is made of comes here after it.
            return NotImplemented
        result = func(*args, **(kwargs or {}))
        if func.namespace == "profiler":
            self._note_action(args)
        elif not func.is_view and not _without_data(result):
            phase = self._recorder.phase
            self.by_phase[phase] += 1
            if phase == "forward":
                self.by_module[self.module] += 1
        return result

    def _note_action(self, args: Sequence[Any]) -> None:
        """Note an action of the pipeline: the runtime marks each for the profiler, as `PP:1F3`."""
        text = args[0] if args and isinstance(args[0], str) else ""
        if text.startswith("PP:"):
            kind = text.removeprefix("PP:").lstrip("0123456789").rstrip("0123456789")
            if kind in _ACTIONS:
                self.actions[kind] += 1


@contextmanager
def _watched(model: nn.Module, operators: _Operators) -> Iterator[None]:
    """Tell which module's forward began last."""

    def entering(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            operators.module = name

        return hook

    with ExitStack() as stack:
        for name, module in model.named_modules():
            stack.callback(module.register_forward_pre_hook(entering(name)).remove)
        yield


def _without_data(result: Any) -> bool:
    """Whether tensors came out, and all of them on the meta device: a stage runs what is not its own with such."""
    tensors = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
    return bool(tensors) and all(tensor.is_meta for tensor in tensors)


def _sizes(trainer: Trainer) -> dict[str, int]:
    """Bytes of a whole model, of its gradient and of what the optimizer keeps."""
    parameters = list(trainer.model.parameters())
    state = [leaf for leaf in tree_leaves(dict(trainer.optimizer.state)) if isinstance(leaf, Tensor)]
    return {
        "parameter_bytes": sum(p.nbytes for p in parameters),
        "gradient_bytes": sum(p.nbytes for p in parameters if p.requires_grad),
        "optimizer_bytes": sum(tensor.nbytes for tensor in state),
    }


def _measure_links(group: Group) -> dict[str, float]:
    """Latency (s) and bandwidth (bytes/s) of single tensors from rank 0 to 1 and of the gang's sums.

    A sum of M bytes takes latency + 2 (n - 1) / n * M / bandwidth.
    """
    sends = {size: _seconds(group, size, _exchange) / 2 for size in _ROUNDS}
    sums = {size: _seconds(group, size, lambda g, tensor: g.all_reduce(tensor).result()) for size in _ROUNDS}
    moved = 2 * (group.world - 1) / group.world
    return {
        "latency": sends[_SMALL],
        "bandwidth": (_LARGE - _SMALL) / max(1e-9, sends[_LARGE] - sends[_SMALL]),
        "sum_latency": sums[_SMALL],
        "sum_bandwidth": moved * (_LARGE - _SMALL) / max(1e-9, sums[_LARGE] - sums[_SMALL]),
    }


def _seconds(group: Group, size: int, operation: Callable[[Group, Tensor], None]) -> float:
    """Seconds of one operation; the quickest of several, since a machine that is busy elsewhere only adds to it."""
    tensor, found = torch.zeros(size // 4), []
    for _ in range(_ROUNDS[size]):
        group.barrier().result()
        began = time.perf_counter()
        operation(group, tensor)
        found.append(time.perf_counter() - began)
    return min(found)


def _exchange(group: Group, tensor: Tensor) -> None:
    """Rank 0 sends rank 1 a tensor, and gets one back."""
    if group.rank > 1:
        return
    for sender in (0, 1):
        if group.rank == sender:
            group.send(tensor, 1 - sender).result()
        else:
            group.receive(tensor, 1 - group.rank).result()


def _clocks() -> tuple[float, float, float]:
    """Seconds: on the clock, computing, and ready to compute while others had the cores (0 where the kernel does not
    say)."""
    waited = 0
    with suppress(OSError, IndexError):
        waited = int(Path("/proc/self/schedstat").read_text().split()[1])
    return time.perf_counter(), time.process_time(), waited / 1e9


def _forget_peak(device: torch.device) -> None:
    """Let the peak begin now. Where the kernel does not let us, it is that of the process's life."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    _trim()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak(device: torch.device, before: int) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = _status()
    return max(0, status["VmHWM"] - status["RssFile"] - status["RssShmem"] - before)


def _own_bytes() -> int:
    _trim()
    return _status()["RssAnon"]


def _trim() -> None:
    """Give back freed memory that the C library keeps: it is nobody's. Others than glibc keep little."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _status() -> Mapping[str, int]:
    """The kernel's figures of this process's memory, in bytes."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) << 10 for words in lines if words[-1] == "kB"}
