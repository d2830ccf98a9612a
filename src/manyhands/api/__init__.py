"""Training from Python: what `manyhands.train` and `manyhands.load` are. The command line is a caller of it."""

from manyhands.api.load import load
from manyhands.api.run import Run
from manyhands.api.train import resume, train

__all__ = ["Run", "load", "resume", "train"]
