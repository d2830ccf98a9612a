"""How two jobs share a slot: which of a worker's phases exclude which of the other's.

A way of sharing is a table: for each phase, the token that a worker must have while it is in it. There is one token of
each name on a slot, so two jobs are never both in phases that need the same one.

    together      no tokens: the machine decides
    interleave    forward, backward and optimizer need `compute`: while one job moves gradients, the other computes
    ticktock      forward needs `forward`, backward needs `backward`: one job's forward, in which activations pile up,
                  can only overlap with the other's backward, in which they go (Wang et al., Wavelet, MLSys 2021)
    alone         everything needs `compute`, and it is never let go: the others stand still

No phase that needs a token waits for another worker of its own job: exchanges need none. So workers of two gangs that
share several slots cannot wait for each other in a circle. That is so for replicas that agree by all-reduce or in
rounds; stages of a pipeline wait for each other within a forward, and those may only be `together`.
"""

from __future__ import annotations

from collections.abc import Mapping

_COMPUTE = ("forward", "backward", "input_gradient", "weight_gradient", "optimizer")
WAYS: dict[str, Mapping[str, str]] = {
    "together": {},
    "interleave": dict.fromkeys(_COMPUTE, "compute"),
    "ticktock": {"forward": "forward", "backward": "backward"},
    "alone": {},
}
"""The token that each phase needs, by way of sharing; other phases need none."""
