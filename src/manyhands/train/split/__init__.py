"""One worker's loop where the model is split: stages, tensor shards, shares of the state."""

from manyhands.train.split.trainer import SplitTrainer

__all__ = ["SplitTrainer"]
