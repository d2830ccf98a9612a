"""The declaration of *what* to compute. A job knows nothing of machines.

`Job` is plain data: factories and numbers. Building one builds no model and reads no data, so it is cheap,
and every wrong value is refused here, before a worker starts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from manyhands.errors import JobError

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What to measure besides the training loss, on which data, and how often.

    Batches are cut from the data in order, so the figures do not depend on the number of workers. A metric is
    a mean over the batch; means of batches are weighted by their sample counts.
    """

    data: Callable[[], Any]
    """Builds a map-style dataset of `(input, target)`, as `Job.data` does."""
    metrics: Mapping[str, Callable[[Any, Any], torch.Tensor]] = field(default_factory=dict)
    """Name -> `(output, target) -> scalar mean`. The job's loss is always measured, under the name `loss`."""
    every: int | None = None
    """Evaluate after every so many steps; None evaluates once, at the end."""
    batch_size: int | None = None
    """Samples per forward pass; None takes the job's micro-batch size."""

    def __post_init__(self) -> None:
        _check_callable("evaluate.data", self.data, "() -> dataset")
        if not isinstance(self.metrics, Mapping):
            kind = type(self.metrics).__name__
            raise JobError(f"evaluate.metrics must be a dict of name -> function; it is a {kind}.")
        for name, metric in self.metrics.items():
            _check_callable(f"evaluate.metrics[{name!r}]", metric, "(output, target) -> scalar")
            if name == "loss":
                raise JobError("evaluate.metrics may not hold the name 'loss': the job's loss has it. Rename it.")
        for name in ("every", "batch_size"):
            if getattr(self, name) is not None:
                _check_count(f"evaluate.{name}", getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class Job:
    """A training job: model, data, loss, optimizer and the numbers that fix the result.

    The result belongs to the job: two runs of one job end with the same weights bit for bit, on any number of
    workers, with or without crashes (same kind of device, same `threads` per worker).

    The global batch of every step is cut into `micro_batches` equal parts, the atoms of work. `micro_batches`
    is the most workers the job can use; more of them make smaller, less efficient kernels. A multiple of the
    worker counts you expect is best: 8 suits 1, 2, 4 and 8 workers.

    Raises:
        JobError: a value is wrong; the text says which and what to change.
    """

    model: Callable[[], nn.Module]
    """Builds the model. Called with torch's generators seeded by `seed`."""
    data: Callable[[], Any]
    """Builds a map-style dataset (`__len__`, `__getitem__`) of `(input, target)`, each a tensor, a number or
    nested dicts and tuples of them. An input that is a dict or a tuple is unpacked into the model's call."""
    loss: Callable[[Any, Any], torch.Tensor]
    """`(output, target) -> scalar`, the mean over the samples of a micro-batch."""
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer]
    """`(params) -> Optimizer`, for example `lambda p: torch.optim.AdamW(p, lr=3e-4)`."""
    scheduler: Callable[[Optimizer], LRScheduler] | None = None
    """`(optimizer) -> LRScheduler`, stepped once after every step."""
    batch_size: int
    """Samples per step, over all workers."""
    micro_batches: int = 8
    """Parts that every batch is cut into; fixes the order of all sums. Must divide `batch_size`."""
    steps: int | None = None
    """Steps to train. Give this or `epochs`."""
    epochs: int | None = None
    """Passes over the data; the last batch runs on into the next permutation if the batch does not divide."""
    seed: int = 0
    """Seeds initialisation, the order of the samples, and one generator stream per micro-batch."""
    evaluate: Evaluation | None = None
    """Held-out data and metrics."""
    precision: Precision = "fp32"
    """`bf16` runs forward and loss under autocast; weights and sums stay in fp32."""
    clip_grad_norm: float | None = None
    """Largest norm of the whole gradient; None does not clip."""
    compile: bool = False
    """Run the model through `torch.compile`."""
    reproducible: bool = True
    """Sum gradients in an order that belongs to the job. False sums in whatever order is quickest."""

    def __post_init__(self) -> None:
        for name, signature in _FACTORIES.items():
            _check_callable(name, getattr(self, name), signature)
        if self.scheduler is not None:
            _check_callable("scheduler", self.scheduler, "(optimizer) -> LRScheduler")
        for name in ("batch_size", "micro_batches"):
            _check_count(name, getattr(self, name))
        if self.batch_size % self.micro_batches:
            raise JobError(self._indivisible())
        if (self.steps is None) == (self.epochs is None):
            given = "neither" if self.steps is None else "both"
            raise JobError(f"a job takes either steps or epochs; {given} was given. Set exactly one.")
        _check_count("steps" if self.steps is not None else "epochs", self.steps or self.epochs or 0)
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**63:
            raise JobError(f"seed must be an integer from 0 to 2**63 - 1; it is {self.seed!r}.")
        if self.precision not in get_args(Precision):
            raise JobError(f"precision must be 'fp32' or 'bf16'; it is {self.precision!r}.")
        clip = self.clip_grad_norm
        if clip is not None and (isinstance(clip, bool) or not isinstance(clip, int | float) or not clip > 0):
            raise JobError(f"clip_grad_norm must be above 0, or None; it is {self.clip_grad_norm!r}.")
        if self.evaluate is not None and not isinstance(self.evaluate, Evaluation):
            kind = type(self.evaluate).__name__
            raise JobError(f"evaluate must be a manyhands.Evaluation; it is a {kind}.")

    @property
    def micro_batch_size(self) -> int:
        """Samples per micro-batch."""
        return self.batch_size // self.micro_batches

    def total_steps(self, samples: int) -> int:
        """Steps of the whole job on a dataset of `samples`: `steps`, or `ceil(epochs * samples / batch_size)`."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return -(-self.epochs * samples // self.batch_size)

    def _indivisible(self) -> str:
        near = [m for m in range(1, self.batch_size + 1) if self.batch_size % m == 0]
        best = min(near, key=lambda m: abs(m - self.micro_batches))
        return (
            f"batch_size {self.batch_size} cannot be cut into {self.micro_batches} equal micro-batches. "
            f"Set micro_batches={best}, or a batch_size that {self.micro_batches} divides."
        )


_FACTORIES = {
    "model": "() -> nn.Module",
    "data": "() -> dataset",
    "loss": "(output, target) -> scalar",
    "optimizer": "(params) -> Optimizer",
}


def _check_callable(name: str, value: object, signature: str) -> None:
    if not callable(value):
        raise JobError(f"{name} must be a function {signature}; it is a {type(value).__name__}. Wrap it: lambda.")
    if name == "model" and not isinstance(value, type) and hasattr(value, "state_dict"):
        raise JobError("model must be a function that builds the model, not a built model. Write model=lambda: ...")


def _check_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise JobError(f"{name} must be a whole number of at least 1; it is {value!r}.")
