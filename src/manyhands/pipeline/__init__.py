"""Pipelines: a schedule is a table, one for each generator; one verifier, one simulator, one interpreter.

What stands here needs no torch. `pipeline.stages` cuts models and `pipeline.runtime` runs tables on them.
"""

from __future__ import annotations

from manyhands.pipeline.costs import Costs, Link, Transfer, even_costs, stage_costs
from manyhands.pipeline.cuts import UnitCost, balance
from manyhands.pipeline.refine import refine
from manyhands.pipeline.schedules import SCHEDULES, Schedule, bubble_theory, find_schedule, make_table
from manyhands.pipeline.simulate import Simulation, simulate
from manyhands.pipeline.table import Action, Kind, Table
from manyhands.pipeline.verify import TableError, Verified, high_water, verify

__all__ = [
    "SCHEDULES",
    "Action",
    "Costs",
    "Kind",
    "Link",
    "Schedule",
    "Simulation",
    "Table",
    "TableError",
    "Transfer",
    "UnitCost",
    "Verified",
    "balance",
    "bubble_theory",
    "even_costs",
    "find_schedule",
    "high_water",
    "make_table",
    "refine",
    "simulate",
    "stage_costs",
    "verify",
]
