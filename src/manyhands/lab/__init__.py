"""A cluster that you don't have, on one Linux machine: namespaces for hosts, shaped cables for links."""

from manyhands.lab.lab import Lab, obstacle
from manyhands.lab.process import Process
from manyhands.lab.wiring import Cable, End

__all__ = ["Cable", "End", "Lab", "Process", "obstacle"]
