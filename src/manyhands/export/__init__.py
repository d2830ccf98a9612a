"""From a run to its model, and to files that other programs load."""

from manyhands.export.load import load_model

__all__ = ["load_model"]
