"""How a job is run, as plain data."""

from manyhands.plan.plan import Device, Plan

__all__ = ["Device", "Plan"]
