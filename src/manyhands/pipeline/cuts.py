"""Where to cut a model into stages (what a unit costs)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class UnitCost:
    """What one unit of a model costs for one micro-batch. A model can be cut before every unit but the first."""

    name: str
    forward: float
    """Seconds."""
    input: float
    """Seconds of the gradient of its inputs."""
    weight: float
    """Seconds of the gradient of its weights."""
    parameter_bytes: int = 0
    activation_bytes: int = 0
    """What one live micro-batch holds from its forward to its backward."""
    crossing_bytes: int = 0
    """What crosses the cut before it, one way."""

    @property
    def seconds(self) -> float:
        return self.forward + self.input + self.weight
