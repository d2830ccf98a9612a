"""Collectives as pure data: the order of sums, and who computes what. No torch, no sockets, no clock."""

from manyhands.collective.blocks import Block, assign_blocks
from manyhands.collective.tree import Fold, Node, fold, leaves, pieces

__all__ = ["Block", "Fold", "Node", "assign_blocks", "fold", "leaves", "pieces"]
