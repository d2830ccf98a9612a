"""How a job is run, as plain data."""

from manyhands.plan.plan import Collective, Device, Plan

__all__ = ["Collective", "Device", "Plan"]
