"""The whole state of a training job: what must be restored for the next step to be the same, bit for bit.

Weights, buffers (those that `state_dict` leaves out too), the optimizer's and the scheduler's state, and the
step. The data cursor follows from the step, and every random stream from `(seed, step, micro-batch)`, so
neither is part of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from manyhands.errors import UserError


def capture(model: nn.Module, optimizer: Optimizer, scheduler: LRScheduler | None, step: int) -> dict[str, Any]:
    """The state as a tree that looks at the live tensors: write it out before the next step."""
    weights = model.state_dict()
    return {
        "step": step,
        "model": dict(weights),
        "buffers": {name: b for name, b in model.named_buffers() if name not in weights},
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict() if scheduler is not None else None,
    }


def restore(
    tree: Mapping[str, Any],
    model: nn.Module,
    optimizer: Optimizer,
    scheduler: LRScheduler | None,
    keep: bool = False,
) -> int:
    """Put a captured state back, in place; returns its step.

    Args:
        keep: the optimizer may go on with the tree's tensors instead of copies.

    Raises:
        UserError: the state is another model's; names the first differences. Nothing has been changed then.
    """
    check_same_model({**tree["buffers"], **tree["model"]}, model)
    _check_same_optimizer(tree["optimizer"], optimizer)
    with torch.no_grad():
        model.load_state_dict(tree["model"])
        buffers = dict(model.named_buffers())
        for name, value in tree["buffers"].items():
            buffers[name].copy_(value)
    restore_optimizer(tree["optimizer"], optimizer, keep)
    if scheduler is not None and tree["scheduler"] is not None:
        scheduler.load_state_dict(_own(tree["scheduler"]))
    return tree["step"]


def restore_optimizer(saved: Mapping[str, Any], optimizer: Optimizer, keep: bool = False) -> None:
    """Put an optimizer's captured `state_dict` back, in copies of its own unless it may `keep` what is there."""
    optimizer.load_state_dict(dict(saved) if keep else _own(saved))
    _keep_dtypes(saved, optimizer)


def check_same_model(saved: Mapping[str, Any], model: nn.Module) -> None:
    """Raise `UserError` unless the names, shapes and dtypes of all weights and buffers are the model's."""
    weights = {**dict(model.named_buffers()), **model.state_dict()}
    forms = {name: (v.shape, v.dtype) if isinstance(v, Tensor) else None for name, v in weights.items()}
    _check_same_forms(saved, forms)


def check_same_state(
    tree: Mapping[str, Any], forms: Mapping[str, tuple[torch.Size, torch.dtype]], optimizer: Optimizer
) -> None:
    """Raise `UserError` unless a captured state is of weights and buffers of these forms and of such an optimizer."""
    _check_same_forms({**tree["buffers"], **tree["model"]}, forms)
    _check_same_optimizer(tree["optimizer"], optimizer)


def _check_same_forms(saved: Mapping[str, Any], forms: Mapping[str, tuple[torch.Size, torch.dtype] | None]) -> None:
    faults = [f"{name} is missing from the checkpoint" for name in forms if name not in saved]
    faults += [f"{name} is not in the model" for name in saved if name not in forms]
    for name, value in saved.items():
        here = forms.get(name)
        if isinstance(value, Tensor) and here is not None and (value.shape, value.dtype) != here:
            faults.append(
                f"{name} is {value.dtype} {tuple(value.shape)} in the checkpoint and "
                f"{here[1]} {tuple(here[0])} in the model"
            )
    if faults:
        more = f" (and {len(faults) - 3} more)" if len(faults) > 3 else ""
        raise UserError(
            "the checkpoint is of another model: " + "; ".join(faults[:3]) + more + ". "
            "Resume with the job file and flags of the run, or start a new run directory."
        )


def _keep_dtypes(saved: Mapping[str, Any], optimizer: Optimizer) -> None:
    """Undo torch's casts: it loads state in the dtype of its parameter, and so rounds what was kept in a wider one."""
    params = [param for group in optimizer.param_groups for param in group["params"]]
    for index, entry in saved["state"].items():
        live = optimizer.state[params[index]]
        for key, value in entry.items():
            if isinstance(value, Tensor) and value.dtype != live[key].dtype:
                live[key] = value.to(live[key].device, copy=True)


def _check_same_optimizer(saved: Mapping[str, Any], optimizer: Optimizer) -> None:
    """Raise `UserError` unless the saved groups have the settings and the sizes of the optimizer's."""
    here = [(sorted(group), len(group["params"])) for group in optimizer.state_dict()["param_groups"]]
    if [(sorted(group), len(group["params"])) for group in saved["param_groups"]] != here:
        raise UserError(
            f"the checkpoint's optimizer state is not that of a {type(optimizer).__name__} with these parameters. "
            "Resume with the job file and flags of the run, or start a new run directory."
        )


def weights_sha256(model: nn.Module) -> str:
    """SHA-256 over the sorted state dict: per entry its name, dtype and shape, then its bytes (row-major)."""
    return tree_sha256(model.state_dict())


def tree_sha256(weights: Mapping[str, Any]) -> str:
    """SHA-256 of a state dict that was captured, as `weights_sha256` has it of a model."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        if isinstance(value, Tensor):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            flat = value.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def bit_sum(model: nn.Module) -> int:
    """A quick order-independent checksum of the state dict, to see whether two workers start equal."""
    total = 0
    for value in model.state_dict().values():
        if isinstance(value, Tensor):
            # A copy: words can be read only where the memory is aligned to them.
            flat = value.detach().clone(memory_format=torch.contiguous_format).reshape(-1).view(torch.uint8)
            whole = flat[: flat.numel() // 8 * 8].view(torch.int64)
            total += int(whole.sum()) + int(flat[whole.numel() * 8 :].sum())
    return total % (1 << 64)


def state_bytes(tree: Any) -> int:
    """Bytes of all tensors in a tree."""
    if isinstance(tree, Tensor):
        return tree.numel() * tree.dtype.itemsize
    if isinstance(tree, Mapping):
        return sum(map(state_bytes, tree.values()))
    if isinstance(tree, list | tuple):
        return sum(map(state_bytes, tree))
    return 0


def _own(tree: Any) -> Any:
    """A copy whose tensors are independent of the image that they were read from."""
    if isinstance(tree, Tensor):
        return tree.clone()
    if isinstance(tree, Mapping):
        return {key: _own(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(_own(value) for value in tree)
    return tree
