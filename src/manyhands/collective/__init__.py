"""Collectives as pure data: forests, the order of sums, and who computes what. No torch, no sockets, no clock."""

from manyhands.collective.blocks import Block, assign_blocks
from manyhands.collective.compile import Association, Contribution, compile_forest, one_each
from manyhands.collective.forest import Edge, Forest, Operation, Tree, forest_from_json, forest_to_json
from manyhands.collective.lossy import Wire, compressed
from manyhands.collective.pipelining import LEAD, MEMORY_CHUNK, NETWORK_CHUNK, count_ahead, count_chunks, ranges
from manyhands.collective.program import Instruction, Op, Place, Program
from manyhands.collective.tree import Fold, Node, fold, leaves, pieces

__all__ = [
    "LEAD",
    "MEMORY_CHUNK",
    "NETWORK_CHUNK",
    "Association",
    "Block",
    "Contribution",
    "Edge",
    "Fold",
    "Forest",
    "Instruction",
    "Node",
    "Op",
    "Operation",
    "Place",
    "Program",
    "Tree",
    "Wire",
    "assign_blocks",
    "compile_forest",
    "compressed",
    "count_ahead",
    "count_chunks",
    "fold",
    "forest_from_json",
    "forest_to_json",
    "leaves",
    "one_each",
    "pieces",
    "ranges",
]
