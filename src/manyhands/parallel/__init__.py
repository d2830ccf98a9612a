"""A model as one worker of a layout holds it: its stages, its shards, its share of the weights.

What a placed model needs is a model, a layout and a gang: no optimizer, no loss, no data. `build.py` says how.
"""

from manyhands.parallel.build import Recipe, build
from manyhands.parallel.mesh import Mesh
from manyhands.parallel.parts import Placed
from manyhands.parallel.state import gather_weights, take_weights

__all__ = ["Mesh", "Placed", "Recipe", "build", "gather_weights", "take_weights"]
