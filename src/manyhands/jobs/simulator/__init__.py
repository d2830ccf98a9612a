"""Policies tried on imagined clusters: traces, a generator, the simulator, what comes out in numbers."""

from manyhands.jobs.simulator.figures import Figures, figures
from manyhands.jobs.simulator.generate import generate
from manyhands.jobs.simulator.jobs import Trace
from manyhands.jobs.simulator.simulate import Outcome, Stay, World, simulate
from manyhands.jobs.simulator.traces import read_trace

__all__ = ["Figures", "Outcome", "Stay", "Trace", "World", "figures", "generate", "read_trace", "simulate"]
