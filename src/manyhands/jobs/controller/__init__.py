"""Many jobs on one cluster, live: a process that gives them slots, as a policy says."""

from manyhands.jobs.controller.client import Client
from manyhands.jobs.controller.home import Home
from manyhands.jobs.controller.serve import PORT, Settings, serve
from manyhands.jobs.controller.start import start

__all__ = ["PORT", "Client", "Home", "Settings", "serve", "start"]
