"""How a job is run, as plain data: the plan, its layout, which layouts are right, and where ranks go."""

from manyhands.plan.hosts import PORT, Address, parse_address, parse_hosts
from manyhands.plan.layout import DIMENSIONS, Coordinates, Dimension, Layout, complete
from manyhands.plan.legality import Finding, Kind, Verdict, judge, nearest_legal
from manyhands.plan.matrix import Row, matrix, matrix_markdown, rules_markdown
from manyhands.plan.placement import place
from manyhands.plan.plan import Collective, Device, Plan
from manyhands.plan.rules import RULES, Coupling, Effect, Rule, Traits
from manyhands.plan.sharing import WAYS
from manyhands.plan.sync import Sync

__all__ = [
    "DIMENSIONS",
    "PORT",
    "RULES",
    "WAYS",
    "Address",
    "Collective",
    "Coordinates",
    "Coupling",
    "Device",
    "Dimension",
    "Effect",
    "Finding",
    "Kind",
    "Layout",
    "Plan",
    "Row",
    "Rule",
    "Sync",
    "Traits",
    "Verdict",
    "complete",
    "judge",
    "matrix",
    "matrix_markdown",
    "nearest_legal",
    "parse_address",
    "parse_hosts",
    "place",
    "rules_markdown",
]
