"""Times collectives: fleets of ranks that do what they are told, so that backends can be compared in turn."""

from manyhands.bench.fleet import Fleet, Launch, in_lab, local
from manyhands.bench.measure import Timing, alternate

__all__ = ["Fleet", "Launch", "Timing", "alternate", "in_lab", "local"]
