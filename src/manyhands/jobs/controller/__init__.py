"""Many jobs on one cluster, live: a process that gives them slots, as a policy says.

The map, each folder above those that it uses:

    web/          the process that serves the API over HTTP, and who asks it
    core/         the state machine: what is known of jobs and hosts, what clients want, what is done about it
    sharing/      two jobs on the same slots: trials, and what came of them
    scheduling/   decisions, pure: what policies see, what is to be done about targets, what becomes of a lost job
    processes/    a job's supervisor and other hosts' agents, as the controller sees them
    storage/      what survives the controller: its files, and jobs in a database
    checks.py, trouble.py    for all of these: bounds on what comes from outside, and our own faults in the log

A folder's own `__init__` imports nothing: a command that only asks a controller loads neither its API nor its loop.
"""

from manyhands.jobs.controller.storage.home import Home
from manyhands.jobs.controller.web.client import Client
from manyhands.jobs.controller.web.serve import PORT, Settings, serve
from manyhands.jobs.controller.web.start import start

__all__ = ["PORT", "Client", "Home", "Settings", "serve", "start"]
