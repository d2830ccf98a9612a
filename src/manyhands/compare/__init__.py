"""Layouts of one job side by side: each is run for a few steps, and predicted from what one worker's run shows."""

from __future__ import annotations

from manyhands.compare.compare import Trials, compare, parse_layouts
from manyhands.compare.predict import Links, Profile, predict

__all__ = ["Links", "Profile", "Trials", "compare", "parse_layouts", "predict"]
