"""Cutting any model into stages: where it can be cut, what crosses a cut, and one stage as a module."""

from __future__ import annotations

from manyhands.pipeline.stages.exported import cuttable, exported
from manyhands.pipeline.stages.measure import measure
from manyhands.pipeline.stages.recorder import record
from manyhands.pipeline.stages.recording import Parameter, Recording, Unit, Value
from manyhands.pipeline.stages.split import Split
from manyhands.pipeline.stages.stage_module import StageModule
from manyhands.pipeline.stages.units import find_units

__all__ = [
    "Parameter",
    "Recording",
    "Split",
    "StageModule",
    "Unit",
    "Value",
    "cuttable",
    "exported",
    "find_units",
    "measure",
    "record",
]
