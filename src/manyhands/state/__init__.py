"""A job's whole state: capturing it, its byte image, and how often it may be kept."""

from manyhands.state.budget import Budget
from manyhands.state.capture import (
    bit_sum,
    capture,
    check_same_model,
    check_same_state,
    restore,
    restore_optimizer,
    state_bytes,
    tree_sha256,
    weights_sha256,
)
from manyhands.state.gather import gather_trees, pack, unpack
from manyhands.state.image import Image, read_image

__all__ = [
    "Budget",
    "Image",
    "bit_sum",
    "capture",
    "check_same_model",
    "check_same_state",
    "gather_trees",
    "pack",
    "read_image",
    "restore",
    "restore_optimizer",
    "state_bytes",
    "tree_sha256",
    "unpack",
    "weights_sha256",
]
