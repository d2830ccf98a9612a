"""What torch functions do to split tensors. Importing this registers all rules."""

from manyhands.tensor_parallel.rules import attention, elementwise, losses, products, shapes  # noqa: F401
