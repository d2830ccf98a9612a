"""Pipelines: a schedule is a table; one verifier, one simulator, one interpreter."""

from __future__ import annotations

from manyhands.pipeline.cuts import UnitCost
from manyhands.pipeline.table import Action, Kind, Table

__all__ = ["Action", "Kind", "Table", "UnitCost"]
