"""How a job is run, as plain data: the plan, its layout, which layouts are right, and where ranks go.

Names are loaded when they are first used: commands read a plan, and need neither the rules nor what starts workers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from manyhands.plan.hosts import PORT, Address, parse_address, parse_hosts
    from manyhands.plan.layout import DIMENSIONS, Coordinates, Dimension, Layout, complete
    from manyhands.plan.legality import SAME_BITS, Finding, Kind, Verdict, judge, nearest_legal
    from manyhands.plan.matrix import Row, matrix, matrix_markdown, rules_markdown
    from manyhands.plan.option import Option
    from manyhands.plan.options import DeviceOptions, DivisionOptions, GangOptions, JobOptions, PlanOptions
    from manyhands.plan.plan import Collective, Device, Plan
    from manyhands.plan.rules import RULES, Coupling, Effect, Rule, Traits
    from manyhands.plan.sharing import WAYS
    from manyhands.plan.sync import Sync

_PLACES = {
    "hosts": ("Address", "PORT", "parse_address", "parse_hosts"),
    "layout": ("Coordinates", "DIMENSIONS", "Dimension", "Layout", "complete"),
    "legality": ("SAME_BITS", "Finding", "Kind", "Verdict", "judge", "nearest_legal"),
    "matrix": ("Row", "matrix", "matrix_markdown", "rules_markdown"),
    "option": ("Option",),
    "options": ("DeviceOptions", "DivisionOptions", "GangOptions", "JobOptions", "PlanOptions"),
    "plan": ("Collective", "Device", "Plan"),
    "rules": ("Coupling", "Effect", "RULES", "Rule", "Traits"),
    "sharing": ("WAYS",),
    "sync": ("Sync",),
}
"""The names that each file of this folder has."""
_FILES = {name: file for file, names in _PLACES.items() for name in names}

__all__ = [
    "SAME_BITS",
    "DIMENSIONS",
    "PORT",
    "RULES",
    "WAYS",
    "Address",
    "Collective",
    "Coordinates",
    "Coupling",
    "Device",
    "DeviceOptions",
    "Dimension",
    "DivisionOptions",
    "Effect",
    "Finding",
    "GangOptions",
    "JobOptions",
    "Kind",
    "Layout",
    "Option",
    "Plan",
    "PlanOptions",
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
    "rules_markdown",
]


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module 'manyhands.plan' has no attribute {name!r}")
    module = importlib.import_module(f"manyhands.plan.{_FILES[name]}")
    # All of the file at once: a file's name, which importing it sets here, must not hide a name in it (`matrix`).
    globals().update({other: getattr(module, other) for other in _PLACES[_FILES[name]]})
    return globals()[name]
