"""How a job is run, as plain data."""

from manyhands.plan.layout import DIMENSIONS, Coordinates, Dimension, Layout, complete
from manyhands.plan.plan import Collective, Device, Plan

__all__ = ["DIMENSIONS", "Collective", "Coordinates", "Device", "Dimension", "Layout", "Plan", "complete"]
