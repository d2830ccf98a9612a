"""A run checks itself: before a gang trains under a plan for the first time, a small part of the job is trained both
ways, by one worker and by the gang as planned, and whatever came of it is compared.

Which models a layout trains rightly can be written down as rules (plan/rules.py), but no list of rules knows every
model: some keep values beside their layers, draw from generators of their own, move weights in their forward pass. So
the gang shows it. It takes two steps of a few micro-batches and evaluates two batches; the losses, every gradient,
weight and buffer, the optimizer's state and the evaluation's figures have to be the same bits, or, where the layout
adds in another order, nearly the same.

A check trains the job's own model and reads its data, which may count, cache, or keep what they are called with. So
its processes train nothing afterwards: they are forks of those that will (apart.py), or are replaced.

Cost: four micro-batches and more on one worker, half as many on each worker of the gang.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from manyhands.errors import UsageError, UserError
from manyhands.gang.reports import Checked
from manyhands.job import Job
from manyhands.parallel.traits import find_traits
from manyhands.plan import SAME_BITS, Plan, Sync, judge
from manyhands.tables import tables_of
from manyhands.training.apart import ApartError, in_fork
from manyhands.training.feed import Feed
from manyhands.training.jobfile import where
from manyhands.training.trainer import Trainer
from manyhands.transport import Group, PeerLostError, part

_STEPS = 2
_GRADIENT = "gradient"
"""Under this name the last gradient of every parameter is put among the optimizer's state in the end: so it is put
together from all workers as the rest of that is."""
_NEAR = {"fp32": 1e-4, "bf16": 5e-2}
"""How far losses and gradients may be apart where sums are added in another order: of a tensor's largest element."""
_SHOWN = 3
_OF = "the gradient of "


class DifferentError(UserError):
    """The gang would train something else than one worker. All of it know so."""


class CannotError(UserError):
    """This worker of the gang fails at what one worker alone can do."""


def check(
    job: Job, plan: Plan, group: Group, trainer: Trainer, apart: bool, on_wait: Callable[[bool], None]
) -> Checked:
    """Train a small part of the job both ways, and compare. Collective. Trains what the trainer has.

    Args:
        trainer: of a member that has not trained anything.
        apart: whether this process can be forked: one worker trains in a fork, else a copy that is built anew.

    Raises:
        DifferentError: the gang trains something else; says what is different first, and what to do.
        CannotError: this worker fails, where one worker alone does not.
        PeerLostError: another worker is gone.
    """
    if tables_of(trainer.model):
        return _found(group, "not checked: the model has tables, whose rows are not compared")
    equality = judge(plan.layout, find_traits(job, trainer.model)).equality
    small = _part_of(job, plan, trainer.feed)
    began = time.perf_counter()
    alone, error = None, ""
    if group.rank == 0:
        try:
            alone = _alone(small, plan, trainer, apart)
        except Exception as caught:
            error = str(caught) if isinstance(caught, ApartError) else where(caught)
    on_wait(True)
    error = group.all_gather_bytes(error.encode())[0].decode()
    on_wait(False)
    # A group of its own: who trains whole models closes it when he leaves.
    with closing(part(group, range(group.world), "the check")) as gang:
        try:
            planned = _trainer(small, _planned(plan), trainer)
            together = _train(planned, gang, on_wait)
        except PeerLostError:
            raise
        except Exception as caught:
            if error:  # it is no fault of the gang
                raise
            if isinstance(caught, UsageError):  # by the rules, which say what works instead
                raise CannotError(str(caught)) from caught
            why = str(caught) if isinstance(caught, UserError) else where(caught)
            raise CannotError(f"{why.rstrip('.')}. {_cannot(plan)}") from caught
    difference = compare(alone, together, equality, job.precision) if alone is not None else ""
    difference = group.all_gather_bytes(difference.encode())[0].decode()
    if error:
        return _found(group, f"not checked: one worker could not train a part of the job ({error})")
    if difference:
        raise DifferentError(_refusal(plan, difference))
    how = "the same bits as" if equality == SAME_BITS else f"{equality} of"
    verdict = f"{how} one worker, checked in {time.perf_counter() - began:.1f} s"
    return _found(group, verdict, planned.steps.cuts)


def _found(group: Group, verdict: str, cuts: tuple[int, ...] = ()) -> Checked:
    """What this worker reports: the first one what was found."""
    return Checked(verdict=verdict, cuts=tuple(cuts)) if group.rank == 0 else Checked()


def _alone(small: Job, plan: Plan, trainer: Trainer, apart: bool) -> dict[str, Any]:
    """What one worker makes of the small job."""
    one = Plan(workers=1, threads=plan.threads, device=plan.device)
    if not apart:
        copy = Trainer(small, one, device=str(trainer.device), recorder=trainer.recorder, tables=None)
        return _train(copy, None, lambda waits: None)

    def work() -> bytes:
        written = io.BytesIO()
        try:
            outcome: Any = _train(_trainer(small, one, trainer), None, lambda waits: None)
        except Exception as error:
            outcome = where(error)
        torch.save(outcome, written)
        return written.getvalue()

    outcome = torch.load(io.BytesIO(in_fork(work)), weights_only=True)
    if isinstance(outcome, str):
        raise ApartError(outcome)
    return outcome


def _trainer(small: Job, plan: Plan, trainer: Trainer) -> Trainer:
    """A trainer of the small job that trains what another one has."""
    trainer.learner.job = small
    device = str(trainer.device)
    return Trainer(small, plan, device=device, recorder=trainer.recorder, tables=None, learner=trainer.learner)


def _part_of(job: Job, plan: Plan, feed: Feed) -> Job:
    """The part of the job that is trained both ways: a few micro-batches, of a pipeline as many as may be on their way;
    and two batches to evaluate on, since what one leaves behind might change the next."""
    layout = plan.layout
    micro_batches = min(job.micro_batches, layout.dp * (2 * layout.pp if layout.pp > 1 else 2 if layout.dp == 1 else 1))
    evaluation = job.evaluate
    if evaluation is not None:
        size = evaluation.batch_size or job.micro_batch_size
        evaluation = replace(evaluation, data=lambda: _First(feed.evaluation_data(), 2 * size))
    return replace(
        job,
        data=lambda: feed.data,
        evaluate=evaluation,
        batch_size=micro_batches * job.micro_batch_size,
        micro_batches=micro_batches,
        steps=_STEPS,
        epochs=None,
    )


class _First:
    """The first samples of a dataset."""

    def __init__(self, data: Any, count: int) -> None:
        self._data, self._count = data, min(count, len(data))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Any:
        return self._data[index]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._data, name)  # `__getitems__`, where it has that


def _planned(plan: Plan) -> Plan:
    """The plan, with a policy under which the result is one worker's: where replicas train apart for a while, what they
    compute has to be right, and when they agree is the policy's affair. Nobody is slowed down."""
    return replace(plan, slow="", sync=Sync() if plan.sync.policy == "local" else plan.sync)


def _train(trainer: Trainer, group: Group | None, on_wait: Callable[[bool], None]) -> dict[str, Any]:
    """Train the small job. What it has come to, by name, in the order in which it came about."""
    job, optimizer = trainer.job, trainer.optimizer
    names = {param: name for name, param in trainer.model.named_parameters()}
    order = [names[param] for entry in optimizer.param_groups for param in entry["params"] if param in names]
    gradients: dict[Tensor, Tensor] = {}

    def keep(updated: Optimizer, *_: object) -> None:
        params = (param for entry in updated.param_groups for param in entry["params"])
        gradients.update({param: param.grad.detach().clone() for param in params if param.grad is not None})

    values: dict[str, Any] = {}
    hook = optimizer.register_step_post_hook(keep)
    try:
        trainer.join(group, on_wait)
        for _ in range(_STEPS):
            step = trainer.train_step()
            values[f"the loss of step {step.step}"] = step.loss
            if step.grad_norm is not None:
                values[f"the norm of the gradient of step {step.step}"] = step.grad_norm
        for param, gradient in gradients.items():
            optimizer.state[param][_GRADIENT] = gradient
        values |= _named(trainer.capture(), order)
        if job.evaluate is not None:
            values |= {f"the evaluation's {name}": figure for name, figure in trainer.evaluate().items()}
    finally:
        hook.remove()
        trainer.leave()
    return values


def _named(state: Mapping[str, Any], order: list[str]) -> dict[str, Any]:
    """A captured state as copies of its tensors and numbers, by names that people understand; gradients first."""
    if "model" not in state:
        return {}
    optimizer = state["optimizer"]["state"]
    gradients = {order[index]: entry[_GRADIENT] for index, entry in optimizer.items() if _GRADIENT in entry}
    weights = {**state["model"], **state["buffers"]}
    found = {f"{_OF}{name}": gradients[name] for name in weights if name in gradients}
    found |= {f"{name}": value for name, value in weights.items()}
    for index, entry in optimizer.items():
        found |= {f"the optimizer's {key} of {order[index]}": v for key, v in entry.items() if key != _GRADIENT}
    return {name: _copy(value) for name, value in found.items()}


def _copy(value: Any) -> Tensor | float | str:
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    return value if isinstance(value, int | float) else repr(value)


def compare(alone: Mapping[str, Any], together: Mapping[str, Any], equality: str, precision: str) -> str:
    """What is different between one worker's outcome and the gang's, in words, the first first; empty: nothing.

    Args:
        equality: as plan/legality.py promises it of the layout.
    """
    if equality == SAME_BITS:
        different = [name for name in _names(alone, together) if not _same(alone.get(name), together.get(name))]
    else:
        different = list(_far(alone, together, _NEAR[precision]))
    if not different:
        return ""
    first = different[0]
    measured = all(isinstance(side.get(first), Tensor | int | float) for side in (alone, together))
    by = f" by {_apart(alone[first], together[first]):.1e}" if measured else ""
    others = [name for name in different[1:] if not name.startswith("the optimizer")]
    more = f"; so do {', '.join(others[:_SHOWN])}" if others else ""
    rest = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
    return f"{first} differs{by}{more}{rest}"


def _names(alone: Mapping[str, Any], together: Mapping[str, Any]) -> Iterator[str]:
    yield from alone
    yield from (name for name in together if name not in alone)


def _same(one: Any, other: Any) -> bool:
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        alike = type(one) is type(other) and one == other
        return alike or (isinstance(one, float) and isinstance(other, float) and math.isnan(one) and math.isnan(other))
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return torch.equal(_bytes(one), _bytes(other))


def _bytes(value: Tensor) -> Tensor:
    """NaN is equal to itself, and zero to its negative it is not."""
    plain = torch.view_as_real(value.resolve_conj()) if value.is_complex() else value
    return plain.contiguous().reshape(-1).view(torch.uint8)


def _far(alone: Mapping[str, Any], together: Mapping[str, Any], limit: float) -> Iterator[str]:
    """The names of what is further apart than sums in another order can be. What an optimizer makes of a gradient that
    is next to nothing may be anything, as it divides by its size: so weights count where their gradient does."""
    gradients = {name.removeprefix(_OF): value for name, value in alone.items() if name.startswith(_OF)}
    least = 1e-2 * limit * max(map(_largest, gradients.values()), default=0.0)
    for name, one in alone.items():
        other = together.get(name)
        if name.startswith("the optimizer"):
            continue
        if isinstance(one, str):
            if one != other:
                yield name
            continue
        if other is None or _apart(one, other) == math.inf:
            yield name
        elif name.startswith(_OF):
            if not _apart(one, other) <= limit * _largest(one) + least:
                yield name
        elif name in gradients:
            counts = gradients[name].abs() > max(limit * _largest(gradients[name]), least)
            if not _apart(one[counts], other[counts]) <= 0.1 * limit * max(1.0, _largest(one)):
                yield name
        elif not _apart(one, other) <= limit * max(_largest(one), least):
            yield name


def _largest(value: Tensor | float) -> float:
    wide = _wide(value)
    return float(wide.abs().max()) if wide.numel() else 0.0


def _apart(one: Tensor | float, other: Tensor | float) -> float:
    one, other = _wide(one), _wide(other)
    return _largest(one - other) if one.shape == other.shape else math.inf


def _wide(value: Tensor | float) -> Tensor:
    if not isinstance(value, Tensor):
        return torch.tensor(value, dtype=torch.float64)
    return value.to(torch.complex128 if value.is_complex() else torch.float64)


def _way(plan: Plan) -> str:
    """A plan, as a user knows it."""
    if plan.layout.split:
        return f"layout {plan.layout}"
    return f"{plan.workers} workers" + (f" with --sync {plan.sync}" if plan.sync != Sync() else "")


_REPLICAS = "Replicas (--workers, no --layout) may do, and are checked as well; one worker always does."


def _cannot(plan: Plan) -> str:
    instead = _REPLICAS if plan.layout.split else "Train with --workers 1."
    return f"One worker can do that, and {_way(plan)} cannot, as a check before the training shows. {instead}"


def _refusal(plan: Plan, difference: str) -> str:
    text = f"{_way(plan)} would train something else than one, as a check before the training shows: {difference}. "
    if plan.layout.split:
        return text + (
            "The model or its optimizer does what cannot be split so, for example keep values beside the layers, or "
            f"draw from generators of its own. {_REPLICAS}"
        )
    return text + (
        "Something goes from one micro-batch to the next besides weights and buffers: a parameter that the forward "
        "pass changes, a value that the model or the loss keeps. Make it a buffer, or train with --workers 1."
    )
