"""How to split a model: found by running it once and watching which features meet."""

from manyhands.tensor_parallel.derive.derive import derive

__all__ = ["derive"]
