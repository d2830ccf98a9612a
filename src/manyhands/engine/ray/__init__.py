"""The nodes of a Ray cluster as hosts: an agent on each, in an actor that holds the node's slots.

`ray_nodes.py` is the side that uses them. What talks to Ray is a process of its own (`process.py`), because Ray ends a
process whose node dies: it looks after the `nodes.py`, on each of which a `lender.py` runs.
"""

from manyhands.engine.ray.ray_nodes import RayNodes

__all__ = ["RayNodes"]
