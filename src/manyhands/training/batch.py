"""From dataset to device: fetching samples and stacking them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from manyhands.errors import UserError


def fetch(dataset: Any, indices: list[int], device: torch.device) -> tuple[Any, Any]:
    """The samples at `indices` as one `(input, target)` batch on the device.

    Uses the dataset's `__getitems__` where it has one.

    Raises:
        UserError: samples are not `(input, target)` pairs, or do not have the same shape.
    """
    getitems = getattr(dataset, "__getitems__", None)
    samples = getitems(indices) if callable(getitems) else [dataset[index] for index in indices]
    first = samples[0]
    if not isinstance(first, tuple | list) or len(first) != 2:
        raise UserError(
            f"sample {indices[0]} of the data is a {type(first).__name__}, not a pair (input, target). "
            "Return two values from the dataset's __getitem__."
        )
    try:
        inputs, targets = default_collate(samples)
    except (RuntimeError, TypeError, ValueError, KeyError) as error:
        raise UserError(_unstackable(samples, indices, error)) from None
    return to_device(inputs, device), to_device(targets, device)


def to_device(value: Any, device: torch.device) -> Any:
    """Move every tensor in nested dicts, lists and tuples."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, Mapping):
        return {key: to_device(item, device) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_device(item, device) for item in value]
    return value


def _unstackable(samples: list[Any], indices: list[int], error: Exception) -> str:
    shapes = [_shape(sample) for sample in samples]
    odd = next((i for i, shape in enumerate(shapes) if shape != shapes[0]), None)
    if odd is None:
        return f"samples {indices[:3]}... cannot be stacked into a batch: {error}"
    return (
        f"samples differ in shape and cannot be stacked into a batch: sample {indices[0]} is {shapes[0]}, "
        f"sample {indices[odd]} is {shapes[odd]}. Pad or crop them in the dataset."
    )


def _shape(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_shape(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "(" + ", ".join(map(_shape, value)) + ")"
    return str(list(value.shape)) if hasattr(value, "shape") else type(value).__name__
