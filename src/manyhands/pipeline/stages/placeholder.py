"""Stand-ins for tensors that are not on this worker: outputs of skipped units, and parameters of other stages.

They answer what does not depend on the elements (shape, dtype, device); anything else is an error in words.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manyhands.errors import UserError

_PACKAGES = tuple(str(Path(p).resolve()) for p in (next(iter(torch.__path__)), Path(__file__).parents[2]))

_LIKE = frozenset(
    {
        "zeros_like",
        "ones_like",
        "full_like",
        "empty_like",
        "new_zeros",
        "new_ones",
        "new_full",
        "new_empty",
        "new_tensor",
    }
)
_AS_OTHER = frozenset(["type_as", "expand_as", "view_as", "reshape_as", "to"])


class Placeholder(Tensor):
    """A tensor without elements. Taking part in an operation, it raises."""

    stand_in: Tensor
    what: str
    real_device: torch.device

    @staticmethod
    def of(what: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, grad: bool) -> Placeholder:
        empty = torch.empty(shape, dtype=dtype, device="meta").requires_grad_(grad)
        made: Any = empty.detach().as_subclass(Placeholder).requires_grad_(grad)
        made.stand_in, made.what, made.real_device = empty, what, device
        return made

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.as_subclass or func is Tensor.requires_grad_:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        return ask(func, args, kwargs, {})

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"<{self.what}, which is not on this worker>"


def tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in nested tuples, lists and dicts: what an operation takes or gives."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors(item)


def exchanged(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Nested arguments with every tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    if type(value) in (tuple, list):
        return type(value)(exchanged(item, change) for item in value)
    if type(value) is dict:
        return {key: exchanged(item, change) for key, item in value.items()}
    return value


def name_of(func: Any) -> str:
    """A short name of a torch function, or of a property that is read (`shape`) or set (`set data`)."""
    name = getattr(func, "__name__", None)
    if name in ("__get__", "__set__"):
        owner = getattr(func, "__self__", None)
        inner = getattr(owner, "__name__", None) or getattr(getattr(owner, "fget", None), "__name__", str(owner))
        return inner if name == "__get__" else f"set {inner}"
    return name or str(func)


def only_describes(name: str, args: tuple[Any, ...], absent: Callable[[Tensor], bool]) -> bool:
    """Whether absent tensors give nothing but their shape, dtype and device, as in `zeros_like(x)` or `mask.to(x)`."""
    if name in _LIKE:
        return not any(absent(t) for value in args[1:] for t in tensors(value))
    if name in _AS_OTHER:
        return len(args) > 1 and isinstance(args[0], Tensor) and not absent(args[0])
    return False


def describing(tensor: Tensor, absent: Mapping[int, Placeholder]) -> Tensor:
    """A tensor for the place of an absent one: on the real device, with its shape and one element of memory."""
    found = _placeholder(tensor, absent)
    if found is None:
        return tensor
    return torch.empty(1, dtype=found.dtype, device=found.real_device).expand(found.stand_in.shape)


def ask(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], absent: Mapping[int, Placeholder]
) -> Any:
    """What a function says of absent tensors without their elements.

    Args:
        absent: placeholders of parameters that are elsewhere, by `id` of the parameter.

    Raises:
        UserError: it needs the elements.
    """
    name = name_of(func)
    found = [p for t in (*tensors(args), *tensors(kwargs)) if (p := _placeholder(t, absent)) is not None]
    if name == "device":
        return found[0].real_device
    if name == "is_cuda":
        return found[0].real_device.type == "cuda"
    if name == "is_meta":
        return False
    if only_describes(name, args, lambda t: _placeholder(t, absent) is not None):
        return func(
            *exchanged(args, lambda t: describing(t, absent)), **exchanged(kwargs, lambda t: describing(t, absent))
        )

    def meta(tensor: Tensor) -> Tensor:
        placeholder = _placeholder(tensor, absent)
        return tensor if placeholder is None else placeholder.stand_in

    try:
        answer = func(*exchanged(args, meta), **exchanged(kwargs, meta))
    except (RuntimeError, NotImplementedError, ValueError, TypeError):
        answer = torch.empty(0)
    if next(tensors(answer), None) is not None:
        raise UserError(
            f"{place()}: {name}() needs {' and '.join(dict.fromkeys(p.what for p in found))}, which is computed by "
            "another stage and was not sent: the forward pass went another way than when the model was recorded. Code "
            "between layers that depends on the values of activations cannot be cut: put it into a module."
        )
    return answer


def place() -> str:
    """`file:line` of the innermost code that is neither torch's nor ours: where the user's forward stands."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith(_PACKAGES) and not name.startswith("<"):
            return f"{name}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return "the model's forward"


def within(path: str) -> bool:
    """Whether code of a file is being run, further out."""
    frame: Any = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename != path:
        frame = frame.f_back
    return frame is not None


def _placeholder(tensor: Tensor, absent: Mapping[int, Placeholder]) -> Placeholder | None:
    return tensor if isinstance(tensor, Placeholder) else absent.get(id(tensor))
