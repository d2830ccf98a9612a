"""What a job and its model are like, as far as it decides which layouts train them rightly (plan/rules.py).

What an optimizer's update looks at is found by trying it: on a matrix, on the same matrix as two halves, and beside
another parameter whose gradients are changed. An update by elements gives the same numbers each time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.optim import Optimizer

from manyhands.job import Job
from manyhands.plan import Coupling, Traits

_ROWS, _STEPS = 8, 3
_ANY = 720720
"""A number of micro-batches that any number of replicas up to 16 divides."""
_HEADS = ("num_attention_heads", "num_heads", "n_head", "n_heads", "heads")


def find_traits(job: Job, model: nn.Module, units: Sequence[str] | None = None) -> Traits:
    """The facts about a job.

    Args:
        model: as the job builds it, whole.
        units: names of the modules between which it can be cut, in order; None if that is not known.
    """
    return replace(
        model_traits(model, units),
        micro_batches=job.micro_batches,
        batch_size=job.batch_size,
        coupling=find_coupling(job.optimizer),
        clip=job.clip_grad_norm is not None,
        compile=job.compile,
        precision=job.precision,
        reproducible=job.reproducible,
    )


def model_traits(model: nn.Module, units: Sequence[str] | None = None) -> Traits:
    """The facts about a model that is not trained: as of a job with as many micro-batches as there may be replicas.

    Args:
        model: whole.
        units: names of the modules between which it can be cut, in order; None if that is not known.
    """
    names = list(dict(model.named_parameters(remove_duplicate=False)))
    return Traits(
        micro_batches=_ANY,
        units=None if units is None else len(units),
        tied=len(names) - len(list(model.parameters())),
        frozen=_frozen(model, units or ()),
        heads=_heads(model, _HEADS),
        kv_heads=_heads(model, ("num_key_value_heads",)),
        hooked=hooked(model),
        dropout=any(map(_drops, model.modules())),
        batch_norm=any(isinstance(module, _BatchNorm) and module.track_running_stats for module in model.modules()),
    )


def hooked(model: nn.Module) -> tuple[str, ...]:
    """The names of parameters with hooks on their gradients."""
    return tuple(n for n, p in model.named_parameters() if p._backward_hooks or p._post_accumulate_grad_hooks)


def find_coupling(optimizer: Callable[[Iterable[nn.Parameter]], Optimizer]) -> Coupling:
    """What an optimizer's update of one element looks at; the whole parameter, if it cannot be tried."""
    before = torch.get_rng_state()
    try:
        whole, beside_another = _train(optimizer, 1, 1.0), _train(optimizer, 1, 100.0)
        if not torch.allclose(whole, beside_another, rtol=1e-5, atol=0):
            return "model"
        return "element" if torch.allclose(whole, _train(optimizer, 2, 1.0), rtol=1e-5, atol=0) else "parameter"
    except Exception:
        return "parameter"
    finally:
        torch.set_rng_state(before)


def _train(optimizer: Callable[[Iterable[nn.Parameter]], Optimizer], parts: int, other: float) -> Tensor:
    """A matrix after some steps, held in so many parts, beside a parameter with gradients of size `other`."""
    drawn = torch.Generator().manual_seed(0)
    start, beside = (torch.randn(_ROWS, _ROWS, generator=drawn) for _ in range(2))
    grads = torch.randn(_STEPS, 2, _ROWS, _ROWS, generator=drawn)
    torch.manual_seed(0)  # the optimizer may draw, too
    held = [nn.Parameter(part.clone()) for part in start.chunk(parts)]
    neighbour = nn.Parameter(beside)
    made = optimizer([*held, neighbour])
    for own, its in grads:
        for param, grad in zip(held, own.chunk(parts), strict=True):
            param.grad = grad.clone()
        neighbour.grad = its * other
        made.step()
    return torch.cat([param.detach() for param in held])


def _frozen(model: nn.Module, units: Sequence[str]) -> Literal["none", "front", "elsewhere"]:
    if all(param.requires_grad for param in model.parameters()):
        return "none"
    parts = [list(model.get_submodule(name).parameters()) for name in units if "#" not in name]
    first = next((part for part in parts if part), list(model.parameters())[:1])
    return "elsewhere" if any(param.requires_grad for param in first) else "front"


def _heads(model: nn.Module, names: Sequence[str]) -> int | None:
    """A number of heads as the model's configuration, or the first module that has such an attribute, says."""
    for holder in (getattr(model, "config", None), *model.modules()):
        for name in names:
            value = getattr(holder, name, None)
            if isinstance(value, int) and value > 0:
                return value
    return None


def _drops(module: nn.Module) -> bool:
    share = module.p if isinstance(module, _DropoutNd) else getattr(module, "dropout", 0.0)
    return isinstance(share, float) and share > 0
