"""Policies tried on imagined clusters: traces, a generator, the simulator, what comes out in numbers."""

from manyhands.jobs.simulator.figures import Figures, figures
from manyhands.jobs.simulator.generate import generate, generate_pairs
from manyhands.jobs.simulator.jobs import Trace
from manyhands.jobs.simulator.pairs import MeasuredPairs, read_pairs
from manyhands.jobs.simulator.simulate import Outcome, Stay, World, simulate
from manyhands.jobs.simulator.traces import read_trace

__all__ = [
    "Figures",
    "MeasuredPairs",
    "Outcome",
    "Stay",
    "Trace",
    "World",
    "figures",
    "generate",
    "generate_pairs",
    "read_pairs",
    "read_trace",
    "simulate",
]
